"""The evaluations of frozen features: every parameter of their protocols, at the protocol's value.

The same groups are flags of `python -m flsl_jax.evaluate` (`--video.radius=12`) and keys of a training config
(`config.evaluation.video.radius`). docs/protocols.md says where the numbers come from. `configs/evaluation.py` writes the same
values out for training configs, and a test holds the two equal.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from flsl_jax.config.ranges import Range, Seed
from flsl_jax.config.source import DepthSourceConfig, KeypointSourceConfig, MaskedSourceConfig, SourceConfig

# From which cosine on two modes are one, wherever clusters are measured or drawn: of several thresholds, the one that agrees
# best with the masks of scenes (docs/objects.md).
MODE_SIMILARITY = 0.8

# Of each task, the metric whose largest value is a good choice of the best checkpoint.
BEST_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "bbox_knn": "any",
        "image_knn": "top1",
        "video": "jf_mean",
        "discovery": "corloc",
        "separability": "separation",
        "retrieval": "miou",
        "clustering": "miou",
        "linear_probe": "miou",
        "correspondence": "pck_point",
        "depth": "delta1",
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BboxKnnConfig:
    """Bbox-aligned k-NN (paper, Appendix F): single patch features of boxed objects.

    Images are resized to a short side of `size` and centre-cropped. Each image gives the 9 patches of a 3×3 grid on its
    largest box; `k` · `k_scale` neighbours vote with exp(cos / `temp`).

    Attributes:
        train: the bank, images with boxes.
        val: the queries, images with boxes.
        size: the side of the images.
        k: the protocol's number of neighbours.
        k_scale: so many times `k` vote.
        temp: the temperature of their votes.
        modes: whether the modes of the mean shift are judged too.
        inv_temp: the mean shift's inverse temperature; 0: that of the model's own training; without one, tokens only.
        bank_dtype: the dtype in which features are kept and compared.
        features: a folder to keep features in, or to read them back from instead of encoding; empty: none.
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

    Each patch takes its label from the `top_k` nearest, by exp(cos / `temp`), among the first frame's and the last `context`
    frames' patches at most `radius` rows and columns away.

    Attributes:
        name: "davis": files in DAVIS-2017 layout; "scenes": embedded films.
        root: the folder of "davis".
        split: the list of videos of "davis", ImageSets/2017/SPLIT.txt; for "scenes" train, val or test.
        resolution: the folder of "davis" below JPEGImages and Annotations.
        count: the number of films.
        scene_size: their height and width.
        scene_kind: see `SourceConfig`.
        frames: the length of a film.
        limit: only the first so many are judged.
        short_side: to which frames are resized.
        side_multiple: the other side is floored to a multiple of it.
        context: frames before the present one that give labels, besides the first.
        radius: how far away they may be looked for.
        top_k: patches that give a label.
        temp: the temperature of their votes.
        output: a folder for the predicted masks (indexed PNG, one folder a video); empty: none.
        predictions: such a folder of masks to judge as they are, without a model.
        on_error: whether a video that is broken or too short is refused by name, or left out with a warning.
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
    on_error: Literal["fail", "skip"] = "fail"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrievalConfig:
    """Dense nearest-neighbour retrieval ("Hummingbird"): labels of `val` patches read out of a memory of `train` patches.

    Attributes:
        train: the memory, images with masks.
        val: the questions, images with masks.
        size: the size of the images.
        fit: how images are brought to `size`; docs/segmentation.md, "Images with masks".
        memory: how many patches are kept, the same number from each image.
        sampling: whether patches are chosen by the rarity of their classes, or evenly.
        k: patches that answer, with softmax(cos / `temp`).
        temp: the temperature of their answer.
        index: an index of FAISS to search the memory with, as its index_factory takes it, such as IVF1024,Flat or
            HNSW32,Flat; empty: the search is exact. Needs the extra "faiss".
        probes: lists of an IVF index that a patch looks into, or efSearch of an HNSW index.
        matching: whether classes are themselves, or Hungarian-matched and absent ones counted as 0, as the public code does.
        seed: decides which patches are kept.
    """

    train: MaskedSourceConfig = MaskedSourceConfig()
    val: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 512
    fit: Literal["square", "crop", "ratio"] = "square"
    memory: Annotated[int, Range(0, unit="patches; 0: all")] = 0
    sampling: Literal["balanced", "uniform"] = "balanced"
    k: Annotated[int, Range(1, unit="neighbours")] = 30
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.02
    index: str = ""
    probes: Annotated[int, Range(1, unit="lists, or efSearch")] = 32
    matching: Literal["identity", "hungarian"] = "identity"
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Unsupervised segmentation: k-means over the l2-normalised tokens of `data`, clusters matched to its classes.

    Up to the number of classes that occur, clusters are matched by the Hungarian method; more clusters are matched by
    majority.

    Attributes:
        data: images with masks.
        size: the size of the images.
        fit: how images are brought to `size`; docs/segmentation.md, "Images with masks".
        clusters: numbers of clusters, each tried on its own; 0: as many as classes occur.
        seeds: how many seeds each is tried with.
        upsample: how cluster maps are brought to the masks' size.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 320
    fit: Literal["square", "crop", "ratio"] = "crop"
    clusters: Annotated[tuple[int, ...], Range(0, unit="clusters; 0: as many as classes")] = (0,)
    seeds: Annotated[int, Range(1, unit="seeds")] = 3
    upsample: Literal["nearest", "bilinear"] = "bilinear"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiscoveryConfig:
    """Unsupervised object discovery: LOST, and objects as connected regions of one mean-shift mode.

    Images keep their own sizes. Tokens whose modes have a cosine of `mode_similarity` or more are of one cluster, and a
    connected part of a cluster is an object.

    Attributes:
        data: images with boxes.
        features: what LOST compares of the last block.
        k_patches: LOST expands its seed among so many patches of lowest degree.
        inv_temp: the mean shift's inverse temperature, for l2-normalised tokens.
        mode_similarity: two modes at least so alike are one.
        min_tokens: a smaller part of a cluster is no object.
        iou: a box with at least so much overlap with a ground-truth box is right.
    """

    data: SourceConfig = SourceConfig(split="val")
    features: Literal["keys", "queries", "values", "tokens"] = "keys"
    k_patches: Annotated[int, Range(1, unit="patches")] = 100
    inv_temp: Annotated[float, Range(0, unit="inverse temperature, times √D")] = 1.0
    mode_similarity: Annotated[float, Range(0, 1, unit="cosine")] = MODE_SIMILARITY
    min_tokens: Annotated[int, Range(1, unit="tokens")] = 2
    iou: Annotated[float, Range(0, 1, above=True, unit="intersection over union")] = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """One linear layer from frozen tokens to classes, trained on `train`'s masks, judged on `val`'s by mIoU.

    A step takes as many tokens as `batch_size` images of `size` × `size` have.

    Attributes:
        train: images with masks.
        val: images with masks.
        size: the size of the images.
        fit: how images are brought to `size`; docs/segmentation.md, "Images with masks".
        epochs: passes over the tokens of `train`.
        batch_size: images of a step.
        lr: AdamW's learning rate; it falls to 0 by a cosine.
        weight_decay: AdamW's weight decay.
        keep_gib: tokens of `train` that take at most so much are kept, others are computed again in every epoch.
        seed: decides the order of the images.
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
    """Weighted k-NN on the mean token of each image, for completeness; labels are those of the sources.

    Attributes:
        train: the bank, images with labels.
        val: the queries, images with labels.
        size: the short side to which images are resized; the central square is used.
        k: neighbours that vote with exp(cos / `temp`).
        temp: the temperature of their votes.
    """

    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 0
    k: Annotated[int, Range(1, unit="neighbours")] = 20
    temp: Annotated[float, Range(0, above=True, unit="temperature of cosines")] = 0.07


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeparabilityConfig:
    """Per block of the network: in-cluster variance and separation Δ (paper, Appendix A), with the masks as clusters; NMI
    and ARI of mean-shift clusters against the masks.

    Tokens whose modes have a cosine of `mode_similarity` or more are of one cluster.

    Attributes:
        data: images with masks.
        size: the size of the images.
        fit: how images are brought to `size`; docs/segmentation.md, "Images with masks".
        inv_temp: the mean shift's inverse temperature, for l2-normalised tokens.
        mode_similarity: two modes at least so alike are one.
    """

    data: MaskedSourceConfig = MaskedSourceConfig(split="val")
    size: Annotated[int, Range(0, unit="pixels; 0: as trained")] = 0
    fit: Literal["square", "crop", "ratio"] = "crop"
    inv_temp: Annotated[float, Range(0, unit="inverse temperature, times √D")] = 1.0
    mode_similarity: Annotated[float, Range(0, 1, unit="cosine")] = MODE_SIMILARITY


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorrespondenceConfig:
    """Key-point correspondence (SPair-71k's task): a point of one image is looked for in another image of its category.

    The answer is the place whose feature has the largest cosine with the point's. It is right if it is no further from the
    annotated point than `alpha` times the longer side of the object's box (PCK).

    Attributes:
        data: pairs of images with key points.
        size: the side of the square that the network sees.
        fit: "square": the whole image resized to it, whatever its ratio; "pad": its longer side resized, on black.
        search: "pixels": features are interpolated, and every pixel of the image is an answer; "patches": the point has the
            feature of its patch, and the centre of every patch is an answer.
        alpha: the distance that counts as right, in longer sides of the box.
    """

    data: KeypointSourceConfig = KeypointSourceConfig()
    size: Annotated[int, Range(0, 8192, unit="pixels; 0: as trained")] = 768
    fit: Literal["square", "pad"] = "square"
    search: Literal["pixels", "patches"] = "pixels"
    alpha: Annotated[float, Range(0, 1, above=True, unit="share of the box")] = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """Monocular depth by one linear layer (DINOv2's linear protocol): from frozen tokens to weights of bins of depth.

    Logits are interpolated four times as fine as the patches; the depth of a place is the mean of the bins, weighted by
    max(logit, 0) + 0.1. Pixels whose true depth is not between `min_depth` and `max_depth` count nowhere.

    Attributes:
        train: images with depth maps.
        val: images with depth maps.
        size: the size of the images.
        fit: how images are brought to `size`; docs/segmentation.md, "Images with masks".
        min_depth: the depth of the first bin.
        max_depth: the depth of the last bin: 10 for NYUv2, 80 for KITTI.
        bins: their number, equally far apart.
        crop: which pixels are judged: all; "eigen": rows 45 to 470 and columns 41 to 600 of NYUv2's 480 × 640; "garg": the
            part of KITTI's images that the laser reaches, in shares of the sides.
        steps: of the training.
        batch_size: images of a step.
        lr: AdamW's learning rate; it falls to 0 by a cosine.
        weight_decay: AdamW's weight decay.
        keep_gib: tokens of `train` that take at most so much are kept, others are computed again in every pass over them.
        seed: decides the order of the images.
    """

    train: DepthSourceConfig = DepthSourceConfig()
    val: DepthSourceConfig = DepthSourceConfig(split="val")
    size: Annotated[int, Range(0, 8192, unit="pixels; 0: as trained")] = 480
    fit: Literal["square", "crop", "ratio"] = "ratio"
    min_depth: Annotated[float, Range(0, above=True, unit="metres")] = 1e-3
    max_depth: Annotated[float, Range(0, above=True, unit="metres")] = 10.0
    bins: Annotated[int, Range(2, 4096, unit="bins")] = 256
    crop: Literal["none", "eigen", "garg"] = "eigen"
    steps: Annotated[int, Range(1, unit="steps")] = 38400
    batch_size: Annotated[int, Range(1, unit="images")] = 16
    lr: Annotated[float, Range(0, above=True, unit="learning rate")] = 1e-2
    weight_decay: Annotated[float, Range(0, unit="times the learning rate, a step")] = 1e-4
    keep_gib: Annotated[float, Range(0, unit="GiB of host memory")] = 16.0
    seed: Seed = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured of a run's features during training: the `tasks`, each with its own group.

    Attributes:
        every_epochs: how often the tasks are measured, besides before the first step and at the end.
        tasks: names of the groups below.
        best_metric: chooses the best checkpoint: TASK/METRIC, the largest value of a metric of one of the `tasks`, such as
            "bbox_knn/any" or "linear_probe/miou".
        batch_size: images that are encoded at a time.
        recorded: what the run's last line shows beside its own numbers: a name, then TASK/METRIC=VALUE, ….
        bbox_knn: bbox-aligned k-NN.
        video: label propagation.
        retrieval: dense nearest neighbours.
        clustering: unsupervised segmentation.
        discovery: objects without labels.
        linear_probe: one linear layer.
        image_knn: k-NN of whole images.
        separability: tokens against masks, block by block.
        correspondence: key points found again in other images.
        depth: one linear layer to metres.
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
    correspondence: CorrespondenceConfig = CorrespondenceConfig()
    depth: DepthConfig = DepthConfig()
