"""One training run as typed, frozen dataclasses: every key, its type, its range and unit, and its meaning.

The paper's values are in `configs/vits16.py`, which writes every key out. Here only a key that a later version added has a
default: what runs did before it existed, so that their saved configs can still be read.
"""

import dataclasses
from typing import Annotated, Any, Literal

from flsl_jax.config.evaluation import EvaluationConfig
from flsl_jax.config.execution import CheckpointConfig, ComputeConfig, LoggingConfig, ParallelConfig
from flsl_jax.config.imagenet import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.config.ranges import MOST_EPOCHS, Epochs, Probability, Range, Seed
from flsl_jax.config.reading import AS_THE_FILE_SAYS, ReadingConfig
from flsl_jax.config.source import TrainingImagesConfig

# For the weight of every loss term; at least one of them must be more than 0.
LOSS_WEIGHT = Range(0, unit="weight in the loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A value that moves from `start` to `end`, over the first `epochs` epochs, and then stays.

    The range of `start` and `end` is that of the field that holds the schedule. One number in the schedule's place is both.

    Attributes:
        start: the value at the first step.
        end: the value after `epochs` epochs and from then on.
        kind: the way from one to the other; "constant": `start` throughout.
        epochs: how long the way takes; 0: the whole run.
    """

    start: float
    end: float
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    epochs: Epochs = 0.0

    @classmethod
    def constant(cls, value: float) -> "ScheduleConfig":
        """A value that does not move."""
        return cls(start=value, end=value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone, a `flsl_jax.models.ViT`.

    With `init_from`, `prefix_tokens`, `num_prefix`, `layer_scale`, `mlp_ratio`, `norm_eps` and `pos_grid` say how that
    backbone is made.

    Attributes:
        patch_size: the side of a patch; it divides the sizes of all views.
        width: the channels D of a token.
        depth: the number of blocks.
        num_heads: attention heads of a block; they divide `width`.
        pos_embed: the position embedding: learned, or fixed 2-D sines and cosines.
        pos_resize: how the position embedding is resized for images of another size than `pos_grid` is for; docs/method.md,
            "Networks".
        drop_path: the rate of stochastic depth of the last block; rates rise linearly from 0 and act on the student only.
        init_std: the standard deviation of the kernels at the start.
        patch_init: how the patch convolution starts: as the other kernels, or as torch's convolutions do.
        mlp_ratio: hidden channels of the MLP over `width`.
        norm_eps: the epsilon of every LayerNorm.
        pos_grid: the side of the position embedding.
        prefix_tokens: what becomes of the tokens before the patches (class token, registers) of the backbone in `init_from`:
            they are dropped, or all kept. They take part in attention, and the objective sees patch tokens alone.
        num_prefix: how many such tokens that backbone has.
        layer_scale: whether the LayerScale of that backbone is kept; without it, it is folded into the kernels.
    """

    patch_size: Annotated[int, Range(1, unit="pixels")]
    width: Annotated[int, Range(1, unit="channels")]
    depth: Annotated[int, Range(1, unit="blocks")]
    num_heads: Annotated[int, Range(1, unit="attention heads")]
    pos_embed: Literal["learned", "sincos"]
    pos_resize: Literal["bicubic", "bicubic_antialias", "bicubic_dino"]
    drop_path: Annotated[float, Range(0, 1, below=True, unit="probability")]
    init_std: Annotated[float, Range(0, above=True, unit="standard deviation")] = 0.02
    patch_init: Literal["normal", "torch"] = "normal"
    mlp_ratio: Annotated[int, Range(1, unit="times the width")] = 4
    norm_eps: Annotated[float, Range(0, above=True, unit="epsilon")] = 1e-6
    pos_grid: Annotated[int, Range(0, unit="tokens on a side; 0: those of views.size")] = 0
    prefix_tokens: Literal["drop", "keep"] = "drop"
    num_prefix: Annotated[int, Range(1, unit="prefix tokens; used where they are kept")] = 1
    layer_scale: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head, a `flsl_jax.models.Head`: from a mode to logits over the centroids.

    Attributes:
        hidden: the channels of its two hidden layers.
        bottleneck: the channels before the last layer, where features are l2-normalised.
        centroids: the number K of clusters over all images.
        norm_last_layer: whether every centroid has length 1; otherwise its length is learned.
        last_layer_init: how the last layer starts: as the other kernels, or as torch's linear layers do.
        warmup_epochs: for so long the backbone is frozen and only the head learns: for a new head on a backbone from
            `init_from`, whose features it would spoil at first. (The last layer has its own
            `optimizer.freeze_last_layer_epochs`).
    """

    hidden: Annotated[int, Range(1, unit="channels")]
    bottleneck: Annotated[int, Range(1, unit="channels")]
    centroids: Annotated[int, Range(2, unit="centroids")]
    norm_last_layer: bool
    last_layer_init: Literal["normal", "torch"] = "normal"
    warmup_epochs: Epochs = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The loss. Inverse temperatures multiply, temperatures divide.

    A token after LayerNorm has a squared norm of about the width, so with `inv_temp_scale` = "mean" one constant is equally
    soft at every width. On that scale the release's constants, made for a width of 384, are 0.1 · √384 = 1.96 and
    0.2 · √384 = 3.92. DINO reads the temperatures of student and teacher, `targets`, `sinkhorn_iterations` and
    `center_momentum` alone.

    Attributes:
        method: "flsl", or "dino", its instance-level twin: the cross-entropy between the mean tokens of an image's views
            (Caron et al. 2021), for which `views.recipe` must be "multicrop".
        query_window: the side of the windows of the tokens' grid, each of which gives one query.
        local_query_window: the same in the released recipe's small student views.
        query_random: whether a query is any token of its window, drawn anew in every step, or the first one.
        cross_query: what asks for the positive in the teacher's view: the student's token, or its mode.
        self_inv_temp: how sharp the self-attention is that makes modes.
        cross_inv_temp: how sharp the cross-attention is that makes positives.
        inv_temp_scale: what these two multiply: "sum", the products of tokens, as in Eq. 4; "mean", the mean of a product
            over the channels.
        student_temp: divides the student's logits.
        teacher_temp: divides the teacher's logits.
        projected_weight: the share of the positives that are the teacher's features at the queries' own places; the rest are
            their modes. 1 → 0 over the first epochs helps while features do not match by themselves yet.
        intra_weight: υ, of the distance between queries and their modes.
        inter_weight: η, of the cross-entropy between the assignments of teacher and student.
        volume_weight: γ, of the divergence of the mean assignment from the prior.
        prior: the shares of the centroids: "uniform", or a .npy file of K numbers.
        targets: "softmax" is the paper's main recipe; "sinkhorn" and "centering" are its ablations and are meant to replace
            the volume term (set `volume_weight` to 0 with them).
        sinkhorn_iterations: how many "sinkhorn" takes.
        center_momentum: what a step of "centering" keeps of the running mean of the teacher's logits.
    """

    method: Literal["flsl", "dino"] = "flsl"
    query_window: Annotated[int, Range(1, unit="tokens")]
    local_query_window: Annotated[int, Range(1, unit="tokens")]
    query_random: bool
    cross_query: Literal["token", "mode"]
    self_inv_temp: Annotated[ScheduleConfig, Range(0, unit="inverse temperature")]
    cross_inv_temp: Annotated[ScheduleConfig, Range(0, unit="inverse temperature")]
    inv_temp_scale: Literal["sum", "mean"] = "sum"
    student_temp: Annotated[float, Range(0, above=True, unit="temperature")]
    teacher_temp: Annotated[ScheduleConfig, Range(0, above=True, unit="temperature")]
    projected_weight: Annotated[ScheduleConfig, Range(0, 1, unit="share of the positives")] = ScheduleConfig(
        start=0.0, end=0.0
    )
    intra_weight: Annotated[ScheduleConfig, LOSS_WEIGHT]
    inter_weight: Annotated[float, LOSS_WEIGHT]
    volume_weight: Annotated[float, LOSS_WEIGHT]
    prior: str
    targets: Literal["softmax", "sinkhorn", "centering"]
    sinkhorn_iterations: Annotated[int, Range(1, unit="iterations")]
    center_momentum: Annotated[float, Range(0, 1, unit="share of the mean that is kept")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuideConfig:
    """A second stage: the frozen backbone of an earlier run helps to choose the teacher's tokens for the positives.

    See docs/second_stage.md and `flsl_jax.objective.guided_weights`.

    Attributes:
        model: a run, one of its checkpoints or a weight file; "": no second stage.
        num_heads: for a weight file that does not give it.
        block: the block whose output is compared; negative numbers count from the last.
        inv_temp: multiplies the products of the guide's tokens.
        sharpness: how sharply tokens with more than the mean attention are chosen; 1e4 gives all of them equal weights.
        weight: the guide's share of the positives' attention; the rest is the teacher's own.
    """

    model: str
    num_heads: Annotated[int, Range(0, unit="attention heads; 0: those of 64 channels each")]
    block: Annotated[int, Range(unit="block; -1: the last")]
    inv_temp: Annotated[float, Range(0, above=True, unit="inverse temperature")]
    sharpness: Annotated[float, Range(0, above=True, unit="factor")]
    weight: Annotated[ScheduleConfig, Range(0, 1, unit="share of the attention")]


_NO_GUIDE = GuideConfig(
    model="", num_heads=0, block=-1, inv_temp=1.0, sharpness=1.0, weight=ScheduleConfig(start=0.0, end=0.0)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Crops and pixel augmentations.

    Pairs are (low, high). A strength s draws factors from [max(0, 1 - s), 1 + s].

    Attributes:
        recipe: "paper", "released" or, for DINO, "multicrop": two crops of `student_area` for teacher and student alike. The
            latter two have small student views too.
        size: the side of the teacher's views and of the large student views.
        local_size: the side of the small student views.
        local_count: their number.
        base_area: the area of the one crop in which all views of an image lie.
        student_area: the area of a large student view.
        local_area: the area of a small student view.
        aspect: the ratio of the sides of every crop.
        flip: whether base crops are mirrored, half of them.
        jitter_probability: how often brightness, contrast, saturation and hue are changed.
        brightness: how much.
        contrast: how much.
        saturation: how much.
        hue: shifts are drawn from [-hue, hue].
        grayscale_probability: how often a view loses its colours.
        blur_probability: how often a view is blurred.
        blur_sigma: the standard deviation of that blur.
        solarise_probability: how often levels from 128 on are inverted.
        mean: of each channel of the training images, as a share of the range from black to white; it is subtracted.
        std: their standard deviation, likewise; it divides.
    """

    recipe: Literal["paper", "released", "multicrop"]
    size: Annotated[int, Range(1, unit="pixels")]
    local_size: Annotated[int, Range(1, unit="pixels")]
    local_count: Annotated[int, Range(0, unit="small student views")] = 2
    base_area: Annotated[tuple[float, float], Range(0, 1, above=True, unit="share of the image")]
    student_area: Annotated[tuple[float, float], Range(0, 1, above=True, unit="share of the base crop")]
    local_area: Annotated[tuple[float, float], Range(0, 1, above=True, unit="share of the base crop")]
    aspect: Annotated[tuple[float, float], Range(0, above=True, unit="width over height")]
    flip: bool
    jitter_probability: Probability
    brightness: Annotated[float, Range(0, unit="strength")]
    contrast: Annotated[float, Range(0, unit="strength")]
    saturation: Annotated[float, Range(0, unit="strength")]
    hue: Annotated[float, Range(0, 0.5, unit="share of the colour circle")]
    grayscale_probability: Probability
    blur_probability: Probability
    blur_sigma: Annotated[tuple[float, float], Range(0, above=True, unit="pixels")] = (0.1, 2.0)
    solarise_probability: Probability
    mean: Annotated[tuple[float, ...], Range(0, 1, unit="share of the range from black to white")] = IMAGENET_MEAN
    std: Annotated[tuple[float, ...], Range(0.001, 1, unit="share of the range from black to white")] = IMAGENET_STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. The learning rate rises from 0 to `lr` · `batch_size` / 256, then falls by a cosine to `final_lr`.

    Attributes:
        lr: the largest learning rate for 256 images; that of the run is `lr` · `batch_size` / 256.
        final_lr: the learning rate at the end, whatever the batch size.
        warmup_epochs: how long the learning rate rises.
        weight_decay: how fast parameters shrink, except biases, norms and others of one dimension.
        b1: AdamW's β₁.
        b2: AdamW's β₂.
        clip: what `clip_norm` bounds: the gradient of each tensor, that of all tensors together, or nothing.
        clip_norm: the largest norm; larger gradients are scaled down.
        freeze_last_layer_epochs: for so long the head's last layer does not learn.
        layer_decay: d multiplies the learning rate of block l of L (from 0) by d^(L - l), and that of patch projection,
            position embedding and prefix tokens by d^(L + 1); the last norm and the head have the whole one. 1: all are the
            same.
    """

    lr: Annotated[float, Range(0, above=True, unit="learning rate for 256 images")]
    final_lr: Annotated[float, Range(0, unit="learning rate")]
    warmup_epochs: Epochs
    weight_decay: Annotated[ScheduleConfig, Range(0, unit="times the learning rate, a step")]
    b1: Annotated[float, Range(0, 1, below=True, unit="decay rate of the mean")]
    b2: Annotated[float, Range(0, 1, below=True, unit="decay rate of the mean square")]
    clip: Literal["tensor", "global", "none"]
    clip_norm: Annotated[float, Range(0, above=True, unit="l2 norm")]
    freeze_last_layer_epochs: Epochs
    layer_decay: Annotated[float, Range(0, 1, above=True, unit="times the learning rate of the next block")] = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The exponential moving average that makes the teacher.

    Attributes:
        momentum: what a step keeps of the teacher; the rest is taken from the student.
    """

    momentum: Annotated[ScheduleConfig, Range(0, 1, unit="share of the teacher that a step keeps")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One training run.

    Attributes:
        seed: decides all random numbers: first parameters, order of the data, crops, views, queries.
        batch_size: images of a step, over all devices and processes.
        epochs: passes over the data, or as many times `epoch_images`.
        stop_at_step: ends the run early, with every schedule as for the whole run.
        epoch_images: how many images an epoch has, whatever the data set holds, so that everything that is measured in epochs
            takes as long for any number of images; 0: an epoch is one pass over the data.
        init_from: a weight file, a folder of timm or transformers, or another run. Student and teacher start from its
            backbone, and from its head if that has the same shapes; "": random. A run that continues has its
            checkpoint instead.
        init_reading: which backbone of `init_from`, and what its file does not say.
        model: the backbone.
        head: the projection head.
        objective: the loss.
        guide: a second stage.
        views: crops and pixel augmentations.
        data: the images to train on.
        optimizer: AdamW and its learning rate.
        teacher: the moving average.
        evaluation: what is measured during training.
        compute: speed and memory.
        parallel: devices and processes.
        checkpoint: when state is saved.
        logging: where metrics go.
    """

    seed: Seed
    batch_size: Annotated[int, Range(1, unit="images")]
    epochs: Annotated[int, Range(1, MOST_EPOCHS, unit="epochs")]
    stop_at_step: Annotated[int, Range(0, unit="steps; 0: not early")]
    epoch_images: Annotated[int, Range(0, unit="images; 0: one pass over the data")] = 0
    init_from: str = ""
    init_reading: ReadingConfig = AS_THE_FILE_SAYS
    model: ModelConfig
    head: HeadConfig
    objective: ObjectiveConfig
    guide: GuideConfig = _NO_GUIDE
    views: ViewsConfig
    data: TrainingImagesConfig
    optimizer: OptimizerConfig
    teacher: TeacherConfig
    evaluation: EvaluationConfig
    compute: ComputeConfig
    parallel: ParallelConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, as written to `config.json`; `parse_saved_config` reads it back."""
    return dataclasses.asdict(config)
