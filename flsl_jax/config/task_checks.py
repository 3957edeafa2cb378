"""Ranges of an evaluation's values: fields of one name mean the same in every task, so that one table serves them all."""

import dataclasses
from typing import Any

from flsl_jax.config.parsing import require
from flsl_jax.config.source import MaskedSourceConfig, SourceConfig

_AT_LEAST_ONE = (
    "k", "k_scale", "top_k", "context", "short_side", "side_multiple", "seeds", "k_patches", "min_tokens", "frames", "epochs",
    "batch_size",
)  # fmt: skip
_POSITIVE = ("temp", "lr")
_NOT_NEGATIVE = ("size", "memory", "radius", "limit", "count", "seed", "inv_temp", "weight_decay", "keep_gib")
_EACH_NOT_NEGATIVE = ("clusters",)
_SHARES = ("iou", "mode_similarity")


def check_task(settings: Any, *, path: str) -> None:
    """Refuses the first value out of range, by its name below `path`.

    Args:
        settings: the dataclass of a task.
        path: what a person calls it: `--video` at a door, `config.evaluation.video` in a training config.
    """
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_task(value, path=name)
        elif field.name in _AT_LEAST_ONE:
            require(value >= 1, f"{name} is {value}; expected at least 1")
        elif field.name in _POSITIVE:
            require(value > 0, f"{name} is {value}; expected more than 0")
        elif field.name in _NOT_NEGATIVE:
            require(value >= 0, f"{name} is {value}; expected 0 or more")
        elif field.name in _EACH_NOT_NEGATIVE:
            require(
                bool(value) and min(value) >= 0, f"{name} is {value}; expected numbers such as (0, 27), 0 or more each"
            )
        elif field.name in _SHARES:
            require(0 <= value <= 1, f"{name} is {value}; expected a number from 0 to 1")


def check_sources(settings: Any, *, path: str) -> None:
    """Refuses a source of a task that is about to run and that does not say where its images are, by its name."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{path}.{field.name}"
        if isinstance(value, SourceConfig | MaskedSourceConfig):
            for key in _needed(value):
                require(bool(getattr(value, key)), f"{name}.{key} is missing; {name}.name={value.name} needs it")


def _needed(source: SourceConfig | MaskedSourceConfig) -> tuple[str, ...]:
    if source.name == "scenes":
        return ("count", "scene_size")
    if isinstance(source, MaskedSourceConfig):
        return ("images", "masks") if source.name == "folder" else ("images", "masks", "annotations")
    return ("dataset",) if source.name == "tfds" else ("root",)
