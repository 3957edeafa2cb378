"""The run's configuration as typed, frozen dataclasses: every key, its type, its default and its meaning.

Defaults are the paper's ViT-S/16. Files under `configs/` return an `ml_collections.ConfigDict`; `parse_config` turns
it into a `Config` and refuses unknown keys (naming the nearest valid one), wrong types and values out of range, each
in one line that names the key.
Numbers are those of METHOD ("Views", "Networks", "The objective").
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from flsl_jax.errors import UserError

_T = TypeVar("_T")


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
    pos_resize: Literal["bicubic", "bicubic_antialias"] = "bicubic"
    drop_path: float = 0.1
    init_std: float = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The projection head; `centroids` is K."""

    hidden: int = 2048
    bottleneck: int = 256
    centroids: int = 4096
    norm_last_layer: bool = True


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
class ViewsConfig:
    """Crops and pixel treatments. `local_size` and `local_area` matter to the released recipe only."""

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
class SourceConfig:
    """Where images come from.

    `name`: "folder" (`root`: any folder of images), "tfds" (`root`: the data_dir or empty, `dataset`: its name),
    "shards" (`root`: a folder written by `python -m flsl_jax.prepare`), "scenes" (embedded synthetic images: `count`
    of them, `scene_size` pixels high and wide). `boxes`: COCO JSON file, or folder of VOC XML files, for evaluation.
    `limit` > 0 keeps the first so many records.
    """

    name: Literal["folder", "tfds", "shards", "scenes"] = "folder"
    root: str = ""
    dataset: str = ""
    split: str = "train"
    boxes: str = ""
    count: int = 0
    scene_size: int = 0
    limit: int = 0
    on_corrupt: Literal["replace", "fail"] = "replace"


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
class EvaluationConfig:
    """Bbox-aligned k-NN during training: every so many epochs (0: never), from `train` as bank and `val` as queries."""

    every_epochs: float = 0.0
    train: SourceConfig = SourceConfig()
    val: SourceConfig = SourceConfig(split="val")
    k: int = 20
    k_scale: int = 7
    temp: float = 0.07
    batch_size: int = 256


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
    """One training run. `stop_at_step` > 0 ends it early, with every schedule as for the whole run."""

    seed: int = 0
    batch_size: int = 512
    epochs: int = 300
    stop_at_step: int = 0
    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    views: ViewsConfig = ViewsConfig()
    data: SourceConfig = SourceConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    teacher: TeacherConfig = TeacherConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()


def parse_config(values: Mapping[str, Any]) -> Config:
    """Typed configuration from a nested mapping (a ConfigDict, or the `config.json` of a workdir).

    Args:
        values: nested mapping; a key that is left out takes its default.

    Raises:
        UserError: an unknown key, a wrong type or a value out of range; the message names the key.
    """
    config = _parse(Config, values, path="config")
    _check(config)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary, as written to `config.json`; `parse_config` reads it back."""
    return dataclasses.asdict(config)


def nearest_key(name: str, candidates: Iterable[str]) -> str:
    """` (did you mean "x"?)`, or the list of valid keys where none is near."""
    candidates = sorted(candidates)
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    return f'did you mean "{near[0]}"?' if near else f"valid keys: {', '.join(candidates)}"


def _parse(kind: type[_T], values: Any, *, path: str) -> _T:
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise UserError(f"{path} is {values!r}; expected a group of keys: {', '.join(_fields(kind))}")
    hints = typing.get_type_hints(kind)
    parsed = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"unknown key {path}.{name}; {nearest_key(name, hints)}")
        parsed[name] = _convert(hints[name], value, path=f"{path}.{name}")
    return kind(**parsed)


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _convert(hint: Any, value: Any, *, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _parse(hint, value, path=path)
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            near = nearest_key(str(value), typing.get_args(hint)).replace("valid keys", "valid values")
            raise UserError(f"{path} is {value!r}; {near}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"{path} is {value!r}; expected numbers such as (0.8, 1.0)")
        return tuple(_convert(typing.get_args(hint)[0], item, path=path) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        name = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.UnionType) else str(hint)
        raise UserError(f"{path} is {value!r} ({type(value).__name__}); expected {name}")
    return value


def _check(config: Config) -> None:
    """Ranges and combinations, before anything is opened or compiled."""
    objective, views, optimizer = config.objective, config.views, config.optimizer
    at_least_one = {
        "batch_size": config.batch_size, "epochs": config.epochs, "model.patch_size": config.model.patch_size,
        "model.width": config.model.width, "model.depth": config.model.depth, "model.num_heads": config.model.num_heads,
        "head.centroids": config.head.centroids, "objective.query_window": objective.query_window,
        "compute.micro_batches": config.compute.micro_batches, "compute.prefetch": config.compute.prefetch,
        "logging.every_steps": config.logging.every_steps, "checkpoint.keep": config.checkpoint.keep,
        "evaluation.batch_size": config.evaluation.batch_size, "parallel.fsdp": config.parallel.fsdp,
    }  # fmt: skip
    for name, value in at_least_one.items():
        _require(value >= 1, f"config.{name} is {value}; expected at least 1")
    positive = {
        "objective.student_temp": objective.student_temp, "objective.teacher_temp.start": objective.teacher_temp.start,
        "objective.teacher_temp.end": objective.teacher_temp.end, "optimizer.lr": optimizer.lr,
        "optimizer.clip_norm": optimizer.clip_norm, "model.init_std": config.model.init_std,
        "checkpoint.every_epochs": config.checkpoint.every_epochs,
    }  # fmt: skip
    for name, value in positive.items():
        _require(value > 0, f"config.{name} is {value}; expected more than 0")
    for name in ("start", "end"):
        share = getattr(objective.projected_weight, name)
        _require(0 <= share <= 1, f"config.objective.projected_weight.{name} is {share}; expected a share from 0 to 1")
    for name in ("base_area", "student_area", "local_area", "aspect", "blur_sigma"):
        span, key = getattr(views, name), f"config.views.{name}"
        _require(
            len(span) == 2 and 0 < span[0] <= span[1], f"{key} is {span}; expected (low, high) with 0 < low <= high"
        )
        _require(
            not name.endswith("_area") or span[1] <= 1, f"{key} is {span}; areas are shares of the image, at most 1"
        )
    for field in dataclasses.fields(views):
        if field.name.endswith("_probability"):
            value = getattr(views, field.name)
            _require(0 <= value <= 1, f"config.views.{field.name} is {value}; expected a probability from 0 to 1")
    _check_grid(config, size_key="size", window_key="query_window")
    if views.recipe == "released":
        _check_grid(config, size_key="local_size", window_key="local_query_window")
    model, batch, parts = config.model, config.batch_size, config.compute.micro_batches
    _require(
        model.width % model.num_heads == 0,
        f"config.model.width = {model.width} is not divisible by config.model.num_heads = {model.num_heads}",
    )
    _require(batch % parts == 0, f"config.compute.micro_batches = {parts} does not divide config.batch_size = {batch}")
    _require(
        config.compute.attention != "cudnn" or config.compute.dtype != "float32",
        'config.compute.attention = "cudnn" needs config.compute.dtype = "bfloat16"',
    )


def _check_grid(config: Config, *, size_key: str, window_key: str) -> None:
    size, window = getattr(config.views, size_key), getattr(config.objective, window_key)
    patch = config.model.patch_size
    _require(
        size >= patch and size % patch == 0,
        f"config.views.{size_key} is {size}; expected a multiple of config.model.patch_size = {patch}",
    )
    grid = size // patch
    _require(
        grid >= window,
        f"config.objective.{window_key} is {window}, but config.views.{size_key} = {size} gives {grid}×{grid} tokens",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)
