"""The evaluations of frozen features: every parameter of their protocols, at the protocol's value.

The same groups are flags of `python -m flsl_jax.evaluate` (`--video.radius=12`) and keys of a training config
(`config.evaluation.video.radius`). docs/protocols.md says where the numbers come from. `configs/evaluation.py` writes the same
values out for training configs, and a test holds the two equal.
"""

import dataclasses
from typing import Annotated, Literal

from flsl_jax.config.ranges import Range, Seed
from flsl_jax.config.source import MaskedSourceConfig, SourceConfig

# From which cosine on two modes are one, wherever clusters are measured or drawn: of several thresholds, the one that agrees
# best with the masks of scenes (docs/objects.md).
MODE_SIMILARITY = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class BboxKnnConfig:
    """Bbox-aligned k-NN (paper, Appendix F): single patch features of boxed objects, `train` as bank, `val` as queries.

    Images are resized to a short side of `size` (0: the size the model was trained at) and centre-cropped. Each image gives the
    9 patches of a 3×3 grid on its largest box; `k` · `k_scale` neighbours vote with exp(cos / `temp`). `modes`: judge the
    modes of the mean shift too, at `inv_temp` (0: that of the model's own training; without one, tokens only).
    `bank_dtype`: the dtype in which features are kept and compared. `features`: a folder to keep them in, or to read them
    back from instead of encoding; empty: none.
    """

    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 0
    k: Annotated[int, Range(1, unit="neighbours")] = 20
    k_scale: Annotated[int, Range(1, unit="factor of k")] = 7
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.07
    modes: bool = True
    inv_temp: Annotated[float, Range(0, unit="inverse temperature; 0: as trained")] = 0.0
    bank_dtype: Literal["float32", "bfloat16"] = "float32"
    features: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Video label propagation, semi-supervised (DINO's protocol), judged as DAVIS-2017 judges it.

    `name`: "davis" (`root` in DAVIS-2017 layout, videos of `split` in folder `resolution`) or "scenes" (embedded films:
    `count` of them of `split` and `scene_kind`, `scene_size` pixels, `frames` long). `limit` > 0 keeps only the first
    `limit` videos.

    Frames are resized to a short side of `short_side`, the other side floored to a multiple of `side_multiple`. Each patch
    takes its label from the `top_k` nearest, by exp(cos / `temp`), among the first frame's and the last `context` frames'
    patches at most `radius` rows and columns away (0: anywhere). `output`: a folder for the predicted masks (indexed PNG,
    one folder per video); empty: none. `predictions`: such a folder of masks to judge as they are, without a model.
    """

    name: Literal["davis", "scenes"] = "davis"
    root: str = ""
    split: str = "val"
    resolution: str = "480p"
    count: Annotated[int, Range(0, unit="films")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    frames: Annotated[int, Range(1, unit="frames of a film")] = 8
    limit: Annotated[int, Range(0, unit="videos; 0: all")] = 0
    short_side: Annotated[int, Range(1, unit="pixels")] = 480
    side_multiple: Annotated[int, Range(1, unit="pixels")] = 64
    context: Annotated[int, Range(1, unit="frames")] = 7
    radius: Annotated[int, Range(0, unit="patches; 0: anywhere")] = 12
    top_k: Annotated[int, Range(1, unit="patches")] = 5
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.1
    output: str = ""
    predictions: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Dense nearest-neighbour retrieval ("Hummingbird"): labels of `val` patches read out of a memory of `train` patches.

    Images are brought to `size` (0: the size the model was trained at) by `fit`; see `flsl_jax/data/mask_fit.py`. `memory`:
    how many patches are kept, the same number from each image (0: all); `sampling` "balanced" chooses them by the rarity of
    their classes. The `k` nearest answer with softmax(cos / `temp`). `matching`: classes are themselves ("identity"), or
    Hungarian-matched and absent ones counted as 0, as the public code does.
    """

    train: MaskedSourceConfig = MaskedSourceConfig()
    val: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 512
    fit: Literal["square", "crop", "ratio"] = "square"
    memory: Annotated[int, Range(0, unit="patches; 0: all")] = 0
    sampling: Literal["balanced", "uniform"] = "balanced"
    k: Annotated[int, Range(1, unit="neighbours")] = 30
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.02
    matching: Literal["identity", "hungarian"] = "identity"
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Unsupervised segmentation: k-means over the l2-normalised tokens of `data`, clusters matched to its classes.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. `clusters`: numbers of clusters, each
    tried with `seeds` seeds; 0 is the number of classes that occur. Up to that number, clusters are matched by
    the Hungarian method; more clusters are matched by majority. `upsample` brings cluster maps to the masks' size.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 320
    fit: Literal["square", "crop", "ratio"] = "crop"
    clusters: Annotated[tuple[int, ...], Range(0, unit="clusters; 0: as many as classes")] = (0,)
    seeds: Annotated[int, Range(1, unit="seeds")] = 3
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
    k_patches: Annotated[int, Range(1, unit="patches")] = 100
    inv_temp: Annotated[float, Range(0, unit="inverse temperature, times √D")] = 1.0
    mode_similarity: Annotated[float, Range(0, 1, unit="cosine")] = MODE_SIMILARITY
    min_tokens: Annotated[int, Range(1, unit="tokens")] = 2
    iou: Annotated[float, Range(0, 1, unit="intersection over union")] = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """One linear layer from frozen tokens to classes, trained on `train`'s masks, judged on `val`'s by mIoU.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. The layer is trained for `epochs` with
    AdamW at `lr`, falling to 0 by a cosine; a step takes as many tokens as `batch_size` images of `size` × `size` have.
    Tokens of `train` that take at most `keep_gib` GiB of host memory are kept, others are computed again in every epoch.
    """

    train: MaskedSourceConfig = MaskedSourceConfig()
    val: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 512
    fit: Literal["square", "crop", "ratio"] = "ratio"
    epochs: Annotated[int, Range(1, unit="epochs")] = 40
    batch_size: Annotated[int, Range(1, unit="images")] = 16
    lr: Annotated[float, Range(0, above=True, unit="learning rate")] = 1e-2
    weight_decay: Annotated[float, Range(0, unit="times the learning rate, a step")] = 1e-4
    keep_gib: Annotated[float, Range(0, unit="GiB of host memory")] = 16.0
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageKnnConfig:
    """Weighted k-NN on the mean token of each image, for completeness; labels are those of the sources."""

    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 0
    k: Annotated[int, Range(1, unit="neighbours")] = 20
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparabilityConfig:
    """Per block of the network: in-cluster variance and separation Δ (paper, Appendix A), with the masks as clusters; NMI
    and ARI of mean-shift clusters against the masks.

    Images are brought to `size` (0: the size the model was trained at) by `fit`. Modes are those of l2-normalised tokens
    at `inv_temp` · √D; tokens whose modes have a cosine of `mode_similarity` or more are of one cluster.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 0
    fit: Literal["square", "crop", "ratio"] = "crop"
    inv_temp: Annotated[float, Range(0, unit="inverse temperature, times √D")] = 1.0
    mode_similarity: Annotated[float, Range(0, 1, unit="cosine")] = MODE_SIMILARITY


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured of a run's features every `every_epochs` epochs (0: never): the `tasks`, each with its own group.

    `best_metric` chooses the best checkpoint: TASK/METRIC, the largest value of a metric of one of the `tasks`, such as
    "bbox_knn/any" or "linear_probe/miou". `batch_size`: images encoded at a time. `recorded`: what the run's last line shows
    beside its own numbers: a name, then TASK/METRIC=VALUE, ….
    """

    every_epochs: Annotated[float, Range(0, unit="epochs; 0: never")] = 0.0
    tasks: tuple[str, ...] = ("bbox_knn",)
    best_metric: str = "bbox_knn/any"
    batch_size: Annotated[int, Range(1, unit="images")] = 256
    recorded: tuple[str, ...] = ()
    bbox_knn: BboxKnnConfig = BboxKnnConfig()
    video: VideoConfig = VideoConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    linear_probe: LinearProbeConfig = LinearProbeConfig()
    image_knn: ImageKnnConfig = ImageKnnConfig()
    separability: SeparabilityConfig = SeparabilityConfig()
