"""Checks that a run's values fit together, before anything is opened or compiled; `ranges` checks each by itself."""

import dataclasses
import tempfile
import typing
from pathlib import Path

from flsl_jax.config.channels import check_channels
from flsl_jax.config.evaluation import BEST_METRICS
from flsl_jax.config.parsing import nearest_key, require
from flsl_jax.config.ranges import check_ranges, range_of
from flsl_jax.config.reading import AS_THE_FILE_SAYS, check_grid
from flsl_jax.config.recorded import recorded_values
from flsl_jax.config.run import LOSS_WEIGHT, Config, ObjectiveConfig, ScheduleConfig
from flsl_jax.config.task_checks import check_sources, check_together, task_advice


def check(config: Config) -> None:
    """Checks ranges, then combinations.

    Raises:
        UserError: one line that names the key, its value and what was expected.
    """
    check_ranges(config, path="config")
    _check_model(config)
    _check_objective(config)
    _check_views(config)
    check_channels(config)
    _check_evaluation(config)
    _check_compute(config)


def advice(config: Config) -> list[str]:
    """What is allowed and probably not meant: a line for each, which names the key and what to set it to."""
    objective, lines = config.objective, []
    if objective.method == "flsl" and objective.targets != "softmax" and objective.volume_weight > 1:
        lines.append(
            f"config.objective.targets = {objective.targets!r} stands in for the volume term, but "
            f"config.objective.volume_weight is {objective.volume_weight}; set it to 0.0 (the paper's tables have at most 1 "
            "beside such targets)"
        )
    for task in config.evaluation.tasks if config.evaluation.every_epochs else ():
        lines += task_advice(getattr(config.evaluation, task), path=f"config.evaluation.{task}")
    return lines


def _check_model(config: Config) -> None:
    model, warmup = config.model, config.head.warmup_epochs
    require(
        model.width % model.num_heads == 0,
        f"config.model.width = {model.width} is not divisible by config.model.num_heads = {model.num_heads}",
    )
    require(
        model.pos_embed != "sincos" or model.width % 4 == 0,
        f'config.model.width is {model.width}; expected a multiple of 4 with config.model.pos_embed = "sincos"',
    )
    require(
        model.prefix_tokens == "drop" or bool(config.init_from),
        'config.model.prefix_tokens is "keep", but config.init_from names no backbone whose tokens could be kept',
    )
    check_grid(config.init_reading.grid, name="config.init_reading.grid")
    require(
        config.init_reading == AS_THE_FILE_SAYS or bool(config.init_from),
        "config.init_reading says how config.init_from is read, which names nothing",
    )
    require(
        not warmup or bool(config.init_from),
        f"config.head.warmup_epochs is {warmup}, which would freeze a random backbone; name one in config.init_from",
    )


def _check_objective(config: Config) -> None:
    _check_method(config)
    hints = typing.get_type_hints(ObjectiveConfig, include_extras=True)
    *others, last = weights = [key for key, hint in hints.items() if range_of(hint) == LOSS_WEIGHT]
    require(
        any(_largest(getattr(config.objective, key)) > 0 for key in weights),
        f"config.objective.{', '.join(others)} and {last} are all 0; expected at least one that is more than 0",
    )
    _check_grid(config, size_key="size", window_key="query_window")
    if config.views.recipe != "paper" and config.views.local_count:
        _check_grid(config, size_key="local_size", window_key="local_query_window")


def _check_method(config: Config) -> None:
    method, recipe = config.objective.method, config.views.recipe
    require(
        (method == "dino") == (recipe == "multicrop"),
        f"config.objective.method is {method!r} and config.views.recipe is {recipe!r}; expected "
        '"flsl" with "paper" or "released", or "dino" with "multicrop": start from the config dino_vits16',
    )
    require(
        method == "flsl" or not config.guide.model,
        f'config.guide.model is {config.guide.model!r}, but config.objective.method = "dino" has no second stage',
    )


def _largest(weight: float | ScheduleConfig) -> float:
    return max(weight.start, weight.end) if isinstance(weight, ScheduleConfig) else weight


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


def _check_views(config: Config) -> None:
    views = config.views
    for name in ("base_area", "student_area", "local_area", "aspect", "blur_sigma"):
        low, high = getattr(views, name)
        require(low <= high, f"config.views.{name} is {(low, high)}; expected (low, high) with low <= high")
    require(
        views.blur_sigma[1] <= views.size,
        f"config.views.blur_sigma is {views.blur_sigma}; expected at most config.views.size = {views.size} (pixels)",
    )


def _check_evaluation(config: Config) -> None:
    evaluation = config.evaluation
    recorded_values(evaluation.recorded)
    groups = {name: value for name, value in vars(evaluation).items() if dataclasses.is_dataclass(value)}
    for name in evaluation.tasks:
        require(name in groups, f"config.evaluation.tasks has {name!r}; {nearest_key(name, groups)}")
    for name, group in groups.items():
        check_together(group, path=f"config.evaluation.{name}")
    if evaluation.every_epochs:
        require(
            bool(evaluation.tasks),
            "config.evaluation.tasks is empty, but config.evaluation.every_epochs is not 0; name a task, or set that to 0",
        )
        for name in evaluation.tasks:
            check_sources(groups[name], path=f"config.evaluation.{name}")
        task, _, metric = evaluation.best_metric.partition("/")
        require(
            task in evaluation.tasks and bool(metric),
            f"config.evaluation.best_metric is {evaluation.best_metric!r}; expected TASK/METRIC, with a task of "
            f"config.evaluation.tasks: {', '.join(evaluation.tasks)}; set it too, such as "
            f"--config.evaluation.best_metric={evaluation.tasks[0]}/{BEST_METRICS[evaluation.tasks[0]]}",
        )


def _check_compute(config: Config) -> None:
    compute, parallel = config.compute, config.parallel
    require(
        config.epoch_images == 0 or config.epoch_images >= config.batch_size,
        f"config.epoch_images is {config.epoch_images}; expected 0, or at least config.batch_size = {config.batch_size}",
    )
    require(
        config.batch_size % compute.micro_batches == 0,
        f"config.compute.micro_batches = {compute.micro_batches} does not divide config.batch_size = {config.batch_size}",
    )
    require(
        compute.attention != "cudnn" or compute.dtype != "float32",
        'config.compute.attention = "cudnn" needs config.compute.dtype = "bfloat16"',
    )
    require(
        parallel.num_processes == -1 or parallel.process_id < parallel.num_processes,
        f"config.parallel.process_id is {parallel.process_id}; expected less than config.parallel.num_processes = "
        f"{parallel.num_processes}",
    )
    if compute.compile_cache and "://" not in compute.compile_cache:  # buckets are not checked
        problem = _problem_of_folder(Path(compute.compile_cache))
        require(
            problem is None,
            f"config.compute.compile_cache is {compute.compile_cache!r}, which cannot be used ({problem}); expected a "
            "folder that can be written, or '' for none",
        )


def _problem_of_folder(folder: Path) -> str | None:
    """Why files cannot be written into a folder, or the folder cannot be made; None if they can. Leaves nothing behind."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryDirectory(dir=folder):
            return None
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
