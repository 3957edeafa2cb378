"""One training run as typed, frozen dataclasses: every key, its type, its default and its meaning.

Defaults are the paper's ViT-S/16. Numbers are those of METHOD ("Views", "Networks", "The objective").
"""

import dataclasses
from typing import Literal

from flsl_jax.config.evaluation import EvaluationConfig
from flsl_jax.config.source import SourceConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A value that moves from `start` to `end` over the first `epochs` epochs (0: the whole run) and then stays."""

    start: float = 0.0
    end: float = 0.0
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    epochs: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone. `drop_path` is the last block's rate; rates rise linearly from 0 and act on the student only.

    `init_std` is the kernels' standard deviation at the start; see `flsl_jax.models.ViT`.
    """

    patch_size: int = 16
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    pos_embed: Literal["learned", "sincos"] = "learned"
    pos_resize: Literal["bicubic", "bicubic_antialias", "bicubic_dino"] = "bicubic"
    drop_path: float = 0.1
    init_std: float = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head; `centroids` is K.

    `warmup_epochs`: so long the backbone is held and the head alone learns; for a fresh head on a backbone of `init_from`,
    whose features it would spoil at first. The head's last layer has its own `optimizer.freeze_last_layer_epochs`.
    """

    hidden: int = 2048
    bottleneck: int = 256
    centroids: int = 4096
    norm_last_layer: bool = True
    warmup_epochs: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The loss. Inverse temperatures multiply, temperatures divide. `prior` is "uniform" or a .npy file of K numbers.

    `targets`: "softmax" is the paper's main recipe; "sinkhorn" and "centering" are its ablations and are meant to stand
    in for the volume term (set `volume_weight` to 0 with them). `local_query_window` is that of the released recipe's
    small student views. `projected_weight` is the share, in the positives, of the teacher's features at the queries'
    own places beside their modes; 1 → 0 over the first epochs helps where features do not match by themselves yet.
    """

    query_window: int = 2
    local_query_window: int = 2
    query_random: bool = True
    cross_query: Literal["token", "mode"] = "token"
    self_inv_temp: ScheduleConfig = ScheduleConfig(start=0.1 / 384**0.5, end=0.1 / 384**0.5)
    cross_inv_temp: ScheduleConfig = ScheduleConfig(start=0.2 / 384**0.5, end=0.2 / 384**0.5)
    student_temp: float = 0.1
    teacher_temp: ScheduleConfig = ScheduleConfig(start=0.04, end=0.07, kind="linear", epochs=30.0)
    projected_weight: ScheduleConfig = ScheduleConfig(start=0.0, end=0.0)
    intra_weight: ScheduleConfig = ScheduleConfig(start=0.03, end=0.03)
    inter_weight: float = 1.0
    volume_weight: float = 5.0
    prior: str = "uniform"
    targets: Literal["softmax", "sinkhorn", "centering"] = "softmax"
    sinkhorn_iterations: int = 1
    center_momentum: float = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuideConfig:
    """A second stage: the frozen backbone of an earlier run says which of the teacher's tokens make up the positives.

    `model`: a run, one of its checkpoints or a weight file ("": no second stage). `num_heads`: of a weight file that does not
    say (0: those of 64 channels each). `block`: whose output is compared, negative ones counted from the last. `inv_temp`
    and `sharpness` multiply, see `flsl_jax.objective.guided_weights`. `weight` is the share, in the positives' attention, of
    the guide's beside the teacher's own. Defaults are the release's.
    """

    model: str = ""
    num_heads: int = 0
    block: int = -2
    inv_temp: float = 0.2 / 384**0.5
    sharpness: float = 1e4
    weight: ScheduleConfig = ScheduleConfig(start=1.0, end=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Crops and pixel augmentations. `local_size` and `local_area` matter to the released recipe only."""

    recipe: Literal["paper", "released"] = "paper"
    size: int = 224
    local_size: int = 96
    base_area: tuple[float, ...] = (0.8, 1.0)
    student_area: tuple[float, ...] = (0.5, 1.0)
    local_area: tuple[float, ...] = (0.05, 0.4)
    aspect: tuple[float, ...] = (3 / 4, 4 / 3)
    flip: bool = False
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, ...] = (0.1, 2.0)
    solarise_probability: float = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW. `lr` is per 256 images: the run uses lr · batch_size / 256. `clip` "tensor" clips each by its own norm."""

    lr: float = 2.5e-4
    final_lr: float = 1e-6
    warmup_epochs: float = 10.0
    weight_decay: ScheduleConfig = ScheduleConfig(start=0.05, end=0.5)
    b1: float = 0.9
    b2: float = 0.999
    clip: Literal["tensor", "global", "none"] = "tensor"
    clip_norm: float = 3.0
    freeze_last_layer_epochs: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The exponential moving average that makes the teacher."""

    momentum: ScheduleConfig = ScheduleConfig(start=0.996, end=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Speed and memory only; the numbers stay the same up to rounding.

    "auto": bfloat16 on accelerators and float32 on CPU; blocks scanned on TPU, and on CPU with `remat`,
    unrolled otherwise.
    `micro_batches` > 1 encodes the batch in so many parts (exact, see DESIGN decision 7). `workers`: processes that
    decode images (0: in the training process). `compile_cache`: folder of the persistent compile cache ("" : off).
    """

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    scan_blocks: Literal["auto", "scan", "unroll"] = "auto"
    attention: Literal["xla", "cudnn"] = "xla"
    remat: Literal["none", "dots", "full"] = "none"
    micro_batches: int = 1
    workers: int = 8
    prefetch: int = 2
    compile_cache: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The device mesh (`data` × `fsdp`; -1: all devices that are left) and how several processes find each other.

    With `distributed`, empty `coordinator` and -1 mean: detected from the cluster (SLURM, TPU pod, Open MPI).
    """

    data: int = -1
    fsdp: int = 1
    distributed: bool = False
    coordinator: str = ""
    num_processes: int = -1
    process_id: int = -1
    timeout_seconds: int = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When state is saved: every so many epochs, on SIGTERM and SIGINT, at `max_hours` (0: no limit) and at the end.

    The newest `keep` and the best (by k-NN) are kept.
    """

    every_epochs: float = 1.0
    keep: int = 3
    keep_best: bool = True
    max_hours: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """A line of metrics every so many steps, to `metrics.jsonl` and where switched on."""

    every_steps: int = 50
    tensorboard: bool = True
    wandb: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One training run. `stop_at_step` > 0 ends it early, with every schedule as for the whole run.

    `init_from`: a weight file, a folder of timm or transformers, or another run, whose backbone student and teacher start
    from, with its head where that has the same shapes ("": random). A run that continues ignores it.
    """

    seed: int = 0
    batch_size: int = 512
    epochs: int = 300
    stop_at_step: int = 0
    init_from: str = ""
    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    guide: GuideConfig = GuideConfig()
    views: ViewsConfig = ViewsConfig()
    data: SourceConfig = SourceConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: TeacherConfig = TeacherConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
