"""One training run as typed, frozen dataclasses: every key, its type, its range and unit, and its meaning.

The paper's values are in `configs/vits16.py`, which writes every key out. Here only a key that a later version added has a
default: what runs did before it existed, so that their saved configs can still be read.
"""

import dataclasses
from typing import Annotated, Literal

from flsl_jax.config.evaluation import EvaluationConfig
from flsl_jax.config.ranges import MOST_EPOCHS, Epochs, Probability, Range, Seed
from flsl_jax.config.source import SourceConfig

# For the weight of every loss term; at least one of them must be more than 0.
LOSS_WEIGHT = Range(0, unit="weight in the loss")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A value that moves from `start` to `end` over the first `epochs` epochs (0: the whole run) and then stays.

    The range of `start` and `end` is that of the field that holds the schedule. One number in the schedule's place is both.
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
    """The backbone. `drop_path` is the last block's rate; rates rise linearly from 0 and act on the student only.

    `init_std` is the kernels' standard deviation at the start. With `patch_init` = "torch" the patch convolution starts as
    torch's does instead. See `flsl_jax.models.ViT`.

    `mlp_ratio`: hidden channels of the MLP over `width`. `norm_eps`: of every LayerNorm. `pos_grid`: side of the position
    embedding in tokens (0: that of `views.size`); for other sizes of images it is resized by `pos_resize`.

    `prefix_tokens` says what becomes of the tokens before the patches (class token, registers) of the backbone in
    `init_from`: "drop", or "keep" all `num_prefix` of them. They take part in attention, and the objective sees patch tokens
    alone. `layer_scale` keeps that backbone's LayerScale; without it, it is folded into the kernels.
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
    """The projection head; `centroids` is K. `last_layer_init` is how the last layer starts; see `flsl_jax.models.Head`.

    For the first `warmup_epochs` epochs the backbone is frozen and only the head learns: for a new head on a backbone from
    `init_from`, whose features it would spoil at first. The head's last layer has its own `optimizer.freeze_last_layer_epochs`.
    """

    hidden: Annotated[int, Range(1, unit="channels")]
    bottleneck: Annotated[int, Range(1, unit="channels")]
    centroids: Annotated[int, Range(2, unit="centroids")]
    norm_last_layer: bool
    last_layer_init: Literal["normal", "torch"] = "normal"
    warmup_epochs: Epochs = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The loss. Inverse temperatures multiply, temperatures divide. `prior` is "uniform" or a .npy file of K numbers.

    `method`: "flsl", or "dino", its instance-level twin: the cross-entropy between the mean tokens of an image's views
    (Caron et al. 2021). DINO reads the temperatures of student and teacher, `targets`, `sinkhorn_iterations` and
    `center_momentum` alone, and `views.recipe` must be "multicrop".

    `targets`: "softmax" is the paper's main recipe; "sinkhorn" and "centering" are its ablations and are meant to
    replace the volume term (set `volume_weight` to 0 with them). `local_query_window` is that of the released recipe's
    small student views. `projected_weight` is the share of the positives that are the teacher's features at the
    queries' own places; the rest are their modes. 1 → 0 over the first epochs helps while features do not match by
    themselves yet.

    `inv_temp_scale` says what `self_inv_temp` and `cross_inv_temp` multiply: "sum", the products of tokens, as in Eq. 4;
    "mean", the mean of a product over the channels. A token after LayerNorm has a squared norm of about the width, so with
    "mean" one constant is equally soft at every width. On that scale the release's constants, made for a width of 384, are
    0.1 · √384 = 1.96 and 0.2 · √384 = 3.92.
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

    `model`: a run, one of its checkpoints or a weight file ("": no second stage). `num_heads`: for a weight file that does not
    give it (0: heads of 64 channels). `block`: the block whose output is compared; negative numbers count from the last.
    `inv_temp` and `sharpness` multiply, see `flsl_jax.objective.guided_weights`. `weight` is the guide's share of the
    positives' attention; the rest is the teacher's own.
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

    `recipe`: "paper", "released" or, for DINO, "multicrop": two crops of `student_area` for teacher and student alike.
    The latter two have `local_count` small student views, of `local_size` and `local_area`.

    Pairs are (low, high). A strength s draws factors from [max(0, 1 - s), 1 + s]; `hue` shifts from [-hue, hue].
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. `lr` is per 256 images: the run uses lr · batch_size / 256. `clip` "tensor" clips each tensor by its own norm.

    `layer_decay` d multiplies the learning rate of block l of L (from 0) by d^(L - l), and that of patch projection, position
    embedding and prefix tokens by d^(L + 1); the last norm and the head have the whole one. 1: all are the same.
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
    """The exponential moving average that makes the teacher."""

    momentum: Annotated[ScheduleConfig, Range(0, 1, unit="share of the teacher that a step keeps")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Speed and memory only; the numbers stay the same up to rounding.

    "auto": bfloat16 on accelerators and float32 on CPU; blocks scanned on TPU, and on CPU with `remat`,
    unrolled otherwise.
    `micro_batches` > 1 encodes the batch in that many parts (exact: the loss is still that of the whole batch). `workers`:
    processes that decode images (0: in the training process). `prefetch`: batches made ready ahead of the step.
    `compile_cache`: folder of the persistent compile cache ("": off).
    """

    dtype: Literal["auto", "float32", "bfloat16"]
    scan_blocks: Literal["auto", "scan", "unroll"]
    attention: Literal["xla", "cudnn"]
    remat: Literal["none", "dots", "full"]
    micro_batches: Annotated[int, Range(1, unit="parts of the batch")]
    workers: Annotated[int, Range(0, unit="processes; 0: in the training process")]
    prefetch: Annotated[int, Range(1, unit="batches")]
    compile_cache: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The device mesh (`data` × `fsdp`; -1: all devices that are left) and how several processes find each other.

    With `distributed`, an empty `coordinator` and -1 are detected from the cluster (SLURM, TPU pod, Open MPI).
    """

    data: Annotated[int, Range(1, also=-1, unit="devices; -1: all that are left")] = -1
    fsdp: Annotated[int, Range(1, unit="devices")] = 1
    distributed: bool = False
    coordinator: str = ""
    num_processes: Annotated[int, Range(1, also=-1, unit="processes; -1: detected")] = -1
    process_id: Annotated[int, Range(0, also=-1, unit="number of this process; -1: detected")] = -1
    timeout_seconds: Annotated[int, Range(1, unit="seconds")] = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When state is saved: every `every_epochs` epochs, on SIGTERM and SIGINT, at `max_hours` (0: no limit) and at the end.

    The newest `keep` and, with `keep_best`, the best by `evaluation.best_metric` are kept.
    """

    every_epochs: Annotated[float, Range(0, above=True, unit="epochs")]
    keep: Annotated[int, Range(1, unit="checkpoints")]
    keep_best: bool
    max_hours: Annotated[float, Range(0, unit="hours; 0: no limit")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """A line of metrics every `every_steps` steps, to `metrics.jsonl` and to the writers that are switched on."""

    every_steps: Annotated[int, Range(1, unit="steps")]
    tensorboard: bool
    wandb: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One training run. `stop_at_step` > 0 ends it early, with every schedule as for the whole run.

    `init_from`: a weight file, a folder of timm or transformers, or another run. Student and teacher start from its
    backbone, and from its head if that has the same shapes ("": random). A run that continues ignores it.
    """

    seed: Seed
    batch_size: Annotated[int, Range(1, unit="images")]
    epochs: Annotated[int, Range(1, MOST_EPOCHS, unit="epochs")]
    stop_at_step: Annotated[int, Range(0, unit="steps; 0: not early")]
    init_from: str = ""
    model: ModelConfig
    head: HeadConfig
    objective: ObjectiveConfig
    guide: GuideConfig = _NO_GUIDE
    views: ViewsConfig
    data: SourceConfig
    optimizer: OptimizerConfig
    teacher: TeacherConfig
    evaluation: EvaluationConfig
    compute: ComputeConfig
    parallel: ParallelConfig
    checkpoint: CheckpointConfig
    logging: LoggingConfig
