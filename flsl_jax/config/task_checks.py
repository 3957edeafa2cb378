"""Checks an evaluation's values: each in its range, then those that belong together."""

import dataclasses
from pathlib import Path
from typing import Any, TypeAlias

from flsl_jax.config.evaluation import ClusteringConfig, DepthConfig, VideoConfig
from flsl_jax.config.parsing import require
from flsl_jax.config.ranges import check_ranges
from flsl_jax.config.source import DepthSourceConfig, KeypointSourceConfig, MaskedSourceConfig, SourceConfig

_Source: TypeAlias = SourceConfig | MaskedSourceConfig | KeypointSourceConfig | DepthSourceConfig | VideoConfig


def check_task(settings: Any, *, path: str) -> None:
    """Refuses the first value out of range, by its name below `path`.

    Args:
        settings: the dataclass of a task.
        path: what the user calls it: `--video` on a command line, `config.evaluation.video` in a training config.
    """
    check_ranges(settings, path=path)
    check_together(settings, path=path)


def check_together(settings: Any, *, path: str) -> None:
    """Refuses values of a task that are in their ranges but cannot be used, by their names below `path`."""
    if isinstance(settings, ClusteringConfig):
        require(bool(settings.clusters), f"{path}.clusters is empty; expected numbers such as (0, 27)")
    if isinstance(settings, DepthConfig):
        require(
            settings.min_depth < settings.max_depth,
            f"{path}.min_depth is {settings.min_depth}; expected less than {path}.max_depth, {settings.max_depth} (metres)",
        )
        require(
            settings.crop != "eigen" or settings.fit == "ratio",
            f"{path}.crop=eigen is of whole images of 640×480, and {path}.fit={settings.fit} changes them; set {path}.fit to "
            f"ratio, or {path}.crop to none",
        )


def task_advice(settings: Any, *, path: str) -> list[str]:
    """What a task's values allow and is probably not meant: one line if it asks about the images that it has learned from."""
    train, val = getattr(settings, "train", None), getattr(settings, "val", None)
    if train is None or val is None or _images(train) != _images(val):
        return []
    return [
        f"{path}.train and {path}.val are the same images, so that each one finds itself and the numbers are too high; name "
        "others in one of them"
    ]


def _images(source: SourceConfig | MaskedSourceConfig | DepthSourceConfig) -> tuple[Any, ...]:
    """What decides which images a source has, whatever its limits."""
    if source.name == "scenes":
        return (source.name, source.split, source.scene_kind, source.scene_size)
    if isinstance(source, MaskedSourceConfig):
        return (source.name, Path(source.images).resolve(), source.masks, source.annotations, source.names)
    if isinstance(source, DepthSourceConfig):
        return (source.name, Path(source.images).resolve(), source.depths, source.names)
    if source.name == "tfds":
        return (source.name, source.root, source.dataset, source.split)
    split = source.split if source.name in ("huggingface", "auto") else ""
    return (source.name, Path(source.root).resolve(), source.boxes, split)


def check_sources(settings: Any, *, path: str) -> None:
    """Refuses a task that is about to run if one of its sources does not say where its images are; names that source."""
    values = {f"{path}.{field.name}": getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for name, value in (values | {path: settings}).items():  # the videos' settings are their source too
        if isinstance(value, _Source):
            for key in _needed(value):
                require(bool(getattr(value, key)), f"{name}.{key} is missing; {name}.name={value.name} needs it")


def _needed(source: _Source) -> tuple[str, ...]:
    if source.name == "scenes":
        return ("count", "scene_size")
    if isinstance(source, MaskedSourceConfig):
        return ("images", "masks", "annotations") if source.name == "panoptic" else ("images", "masks")
    if isinstance(source, DepthSourceConfig):
        return ("images", "depths")
    return ("dataset",) if source.name == "tfds" else ("root",)
