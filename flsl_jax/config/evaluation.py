"""The evaluations of frozen features: every parameter of their protocols, at the protocol's value.

The same groups are flags of `python -m flsl_jax.evaluate` (`--video.radius=12`) and keys of a training config
(`config.evaluation.video.radius`). Sources of the numbers: METHOD ("Evaluation") and PROTOCOLS.
"""

import dataclasses
from typing import Literal

from flsl_jax.config.source import MaskedSourceConfig, SourceConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class BboxKnnConfig:
    """Bbox-aligned k-NN (paper, Appendix F): single patch features of boxed objects, `train` as bank, `val` as queries.

    Images are resized to a short side of `size` (0: the size the model was trained at) and centre-cropped; of the largest
    box the 9 patches of a 3×3 grid; `k` · `k_scale` neighbours vote with exp(cos / `temp`). `modes`: judge the modes of the
    mean shift too, at `inv_temp` (0: that of the model's own training; without one, tokens only). `bank_dtype`: what
    features are kept and compared in. `features`: a folder to keep them in, or to read them back from instead of encoding;
    empty: none.
    """

    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    size: int = 0
    k: int = 20
    k_scale: int = 7
    temp: float = 0.07
    modes: bool = True
    inv_temp: float = 0.0
    bank_dtype: Literal["float32", "bfloat16"] = "float32"
    features: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Video label propagation, semi-supervised (DINO's protocol), judged as DAVIS-2017 judges it.

    `name`: "davis" (`root` in DAVIS-2017 layout, videos of `split` in folder `resolution`) or "scenes" (embedded films:
    `count` of them of `split`, `scene_size` pixels, `frames` long). `limit` > 0 keeps the first so many videos.

    Frames are resized to a short side of `short_side`, the other side floored to a multiple of `side_multiple`. Each patch
    takes its label from the `top_k` nearest, by exp(cos / `temp`), among the first frame's and the last `context` frames'
    patches at most `radius` rows and columns away (0: anywhere). `output`: a folder for the predicted masks (indexed PNG,
    a folder a video); empty: none. `predictions`: such a folder of masks to judge as they are, without a model.
    """

    name: Literal["davis", "scenes"] = "davis"
    root: str = ""
    split: str = "val"
    resolution: str = "480p"
    count: int = 0
    scene_size: int = 0
    frames: int = 8
    limit: int = 0
    short_side: int = 480
    side_multiple: int = 64
    context: int = 7
    radius: int = 12
    top_k: int = 5
    temp: float = 0.1
    output: str = ""
    predictions: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Dense nearest-neighbour retrieval ("Hummingbird"): labels of `val` patches read out of a memory of `train` patches.

    Images are brought to `size` (0: the size the model was trained at) by `fit`; see `flsl_jax/data/mask_fit.py`. `memory`:
    patches kept, as many of each image, `sampling` "balanced" by the rarity of their classes (0: all). The `k` nearest
    answer with softmax(cos / `temp`). `matching`: classes are themselves ("identity"), or Hungarian-matched and absent
    ones counted as 0, as the public code does.
    """

    train: MaskedSourceConfig = MaskedSourceConfig()
    val: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: int = 512
    fit: Literal["square", "crop", "ratio"] = "square"
    memory: int = 0
    sampling: Literal["balanced", "uniform"] = "balanced"
    k: int = 30
    temp: float = 0.02
    matching: Literal["identity", "hungarian"] = "identity"
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Unsupervised segmentation: k-means over the l2-normalised tokens of `data`, clusters matched to its classes.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. `clusters`: numbers of clusters, each
    tried with `seeds` seeds; 0 is the number of classes that occur. Up to as many clusters as those are matched by the
    Hungarian method, more by majority. `upsample` brings cluster maps to the masks' size.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: int = 320
    fit: Literal["square", "crop", "ratio"] = "crop"
    clusters: tuple[int, ...] = (0,)
    seeds: int = 3
    upsample: Literal["nearest", "bilinear"] = "bilinear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscoveryConfig:
    """Unsupervised object discovery on `data` with boxes: LOST, and objects as connected regions of one mean-shift mode.

    LOST compares `features` of the last block at the images' own sizes and expands its seed among the `k_patches` patches
    of lowest degree. Modes are those of l2-normalised tokens at `inv_temp` · √D; tokens whose modes have a cosine of
    `mode_similarity` or more are of one cluster, and a connected part of a cluster with `min_tokens` tokens or more is an
    object. A box is right at an IoU of `iou` with any ground-truth box.
    """

    data: SourceConfig = SourceConfig(split="val")
    features: Literal["keys", "queries", "values", "tokens"] = "keys"
    k_patches: int = 100
    inv_temp: float = 1.0
    mode_similarity: float = 0.8
    min_tokens: int = 2
    iou: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """One linear layer from frozen tokens to classes, trained on `train`'s masks, judged on `val`'s by mIoU.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. The layer is trained for `epochs` with
    AdamW at `lr`, falling to 0 by a cosine; a step takes as many tokens as `batch_size` images of `size` × `size` have.
    Tokens of `train` that take at most `keep_gib` GiB of host memory are kept, others are computed anew in every epoch.
    """

    train: MaskedSourceConfig = MaskedSourceConfig()
    val: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: int = 512
    fit: Literal["square", "crop", "ratio"] = "ratio"
    epochs: int = 40
    batch_size: int = 16
    lr: float = 1e-2
    weight_decay: float = 1e-4
    keep_gib: float = 16.0
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageKnnConfig:
    """Weighted k-NN on the mean token of each image, for completeness; labels are those of the sources."""

    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    size: int = 0
    k: int = 20
    temp: float = 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparabilityConfig:
    """Per block of the network: in-cluster variance and separation Δ (paper, Appendix A), with the masks as clusters; NMI
    and ARI of mean-shift clusters against the masks.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. Modes are those of l2-normalised tokens
    at `inv_temp` · √D; tokens whose modes have a cosine of `mode_similarity` or more are of one cluster.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: int = 0
    fit: Literal["square", "crop", "ratio"] = "crop"
    inv_temp: float = 1.0
    mode_similarity: float = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured of a run's features, every so many epochs (0: never): the named `tasks`, each with its own group.

    `bbox_knn`, when it is among them, chooses the best checkpoint. `batch_size`: images encoded at a time.
    """

    every_epochs: float = 0.0
    tasks: tuple[str, ...] = ("bbox_knn",)
    batch_size: int = 256
    bbox_knn: BboxKnnConfig = BboxKnnConfig()
    video: VideoConfig = VideoConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    linear_probe: LinearProbeConfig = LinearProbeConfig()
    image_knn: ImageKnnConfig = ImageKnnConfig()
    separability: SeparabilityConfig = SeparabilityConfig()
