"""Ranges and combinations of a run's values, before anything is opened or compiled."""

import dataclasses

from flsl_jax.config.parsing import nearest_key, require
from flsl_jax.config.run import Config
from flsl_jax.config.task_checks import check_sources, check_task


def check(config: Config) -> None:
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
        require(value >= 1, f"config.{name} is {value}; expected at least 1")
    _check_evaluation(config)
    positive = {
        "objective.student_temp": objective.student_temp, "objective.teacher_temp.start": objective.teacher_temp.start,
        "objective.teacher_temp.end": objective.teacher_temp.end, "optimizer.lr": optimizer.lr,
        "optimizer.clip_norm": optimizer.clip_norm, "model.init_std": config.model.init_std,
        "checkpoint.every_epochs": config.checkpoint.every_epochs, "guide.inv_temp": config.guide.inv_temp,
        "guide.sharpness": config.guide.sharpness,
    }  # fmt: skip
    for name, value in positive.items():
        require(value > 0, f"config.{name} is {value}; expected more than 0")
    warmup = config.head.warmup_epochs
    require(warmup >= 0, f"config.head.warmup_epochs is {warmup}; expected 0 or more")
    require(
        not warmup or bool(config.init_from),
        f"config.head.warmup_epochs is {warmup}, which holds a backbone that is random; name one in config.init_from",
    )
    require(config.guide.num_heads >= 0, f"config.guide.num_heads is {config.guide.num_heads}; expected 0 or more")
    for path, weight in (
        ("objective.projected_weight", objective.projected_weight),
        ("guide.weight", config.guide.weight),
    ):
        for name in ("start", "end"):
            share = getattr(weight, name)
            require(0 <= share <= 1, f"config.{path}.{name} is {share}; expected a share from 0 to 1")
    for name in ("base_area", "student_area", "local_area", "aspect", "blur_sigma"):
        span, key = getattr(views, name), f"config.views.{name}"
        require(
            len(span) == 2 and 0 < span[0] <= span[1], f"{key} is {span}; expected (low, high) with 0 < low <= high"
        )
        require(
            not name.endswith("_area") or span[1] <= 1, f"{key} is {span}; areas are shares of the image, at most 1"
        )
    for field in dataclasses.fields(views):
        if field.name.endswith("_probability"):
            value = getattr(views, field.name)
            require(0 <= value <= 1, f"config.views.{field.name} is {value}; expected a probability from 0 to 1")
    _check_grid(config, size_key="size", window_key="query_window")
    if views.recipe == "released":
        _check_grid(config, size_key="local_size", window_key="local_query_window")
    model, batch, parts = config.model, config.batch_size, config.compute.micro_batches
    require(
        model.width % model.num_heads == 0,
        f"config.model.width = {model.width} is not divisible by config.model.num_heads = {model.num_heads}",
    )
    require(batch % parts == 0, f"config.compute.micro_batches = {parts} does not divide config.batch_size = {batch}")
    require(
        config.compute.attention != "cudnn" or config.compute.dtype != "float32",
        'config.compute.attention = "cudnn" needs config.compute.dtype = "bfloat16"',
    )


def _check_evaluation(config: Config) -> None:
    groups = [name for name, value in vars(config.evaluation).items() if dataclasses.is_dataclass(value)]
    for name in config.evaluation.tasks:
        require(name in groups, f"config.evaluation.tasks has {name!r}; {nearest_key(name, groups)}")
    for name in groups:
        check_task(getattr(config.evaluation, name), path=f"config.evaluation.{name}")
    if config.evaluation.every_epochs:
        for name in config.evaluation.tasks:
            check_sources(getattr(config.evaluation, name), path=f"config.evaluation.{name}")


def _check_grid(config: Config, *, size_key: str, window_key: str) -> None:
    size, window = getattr(config.views, size_key), getattr(config.objective, window_key)
    patch = config.model.patch_size
    require(
        size >= patch and size % patch == 0,
        f"config.views.{size_key} is {size}; expected a multiple of config.model.patch_size = {patch}",
    )
    grid = size // patch
    require(
        grid >= window,
        f"config.objective.{window_key} is {window}, but config.views.{size_key} = {size} gives {grid}×{grid} tokens",
    )
