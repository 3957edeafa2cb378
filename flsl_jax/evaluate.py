"""Judges frozen features: `python -m flsl_jax.evaluate --model=runs/quickstart --task=bbox_knn --bbox_knn.train.root=DIR …`.

Every task takes every model: a run's workdir, a checkpoint, a weight file, or a baseline to compare with. A task prints a
table and writes TASK.json with its numbers, every parameter of its protocol, and the model and machine that gave them. With
several models the table has a column for each: `--model=runs/quickstart,untrained:runs/quickstart,pixels:runs/quickstart`.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from flsl_jax.command_line import run_main, show_log
from flsl_jax.config import (
    DepthSourceConfig,
    KeypointSourceConfig,
    MaskedSourceConfig,
    SourceConfig,
    check_sources,
    check_task,
    task_advice,
)
from flsl_jax.config.flags import define_group, describe_group, describe_kind
from flsl_jax.config.reading_flags import define_reading
from flsl_jax.errors import UserError
from flsl_jax.evaluation.tasks import TASKS, check_names, open_task, run_task

if typing.TYPE_CHECKING:
    from flsl_jax.evaluation.open_model import OpenedModel

log = logging.getLogger("flsl_jax.evaluate")

_MODEL = flags.DEFINE_list(
    "model",
    None,
    "What to judge, several with commas between them: a run's workdir, WORKDIR/checkpoints/STEP, a weight file; or, to compare "
    "with, untrained:WORKDIR (what that run started from), pixels:WORKDIR (raw pixels in its patches), or pixels (with "
    "--patch_size).",
)
_TASK = flags.DEFINE_list("task", None, f"One or more of {', '.join(TASKS)}, with commas between them.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for the TASK.json files, with a folder in it for each of several models; default: WORKDIR/results, where the run's "
    "report finds them.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images encoded at a time.", lower_bound=1)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 0, "Patch size of --model=pixels, in pixels.", lower_bound=0)
_READING = define_reading()
_SETTINGS = {name: define_group(name, task.settings) for name, task in TASKS.items()}

_TASK_HELP = "".join(
    f"\n=== {name} ===\n{task.judges}\nNeeds: {task.needs}.\n{describe_group(name, task.settings)}\n"
    for name, task in TASKS.items()
)
_SOURCES = (SourceConfig, MaskedSourceConfig, KeypointSourceConfig, DepthSourceConfig)
_SOURCE_HELP = "".join(f"\n{describe_kind(kind)}\n" for kind in _SOURCES)
# What --help prints.
__doc__ = f"{__doc__}\nTasks, each with its flags and their defaults:\n{_TASK_HELP}{_SOURCE_HELP}"


def main() -> int:
    """Checks the flags, then opens the models and all data, then runs one task after another."""
    settings = _checked_settings()
    show_log()

    from flsl_jax.evaluation import results
    from flsl_jax.evaluation.open_model import open_model, short_names
    from flsl_jax.host_memory import keep_host_memory

    keep_host_memory()
    models = [open_model(source, patch_size=_PATCH_SIZE.value, reading=_READING()) for source in _MODEL.value or [""]]
    names = short_names(models)
    folders = _folders(models, names)
    data = {name: _open_data(name, values, models) for name, values in settings.items()}
    for folder in folders:
        results.check_writable(folder)
    for name, values in settings.items():
        for line in task_advice(values, path=f"--{name}"):
            log.warning("note: %s", line)
    for name, values in settings.items():
        found, paths = [], []
        for number, (model, folder, opened) in enumerate(zip(models, folders, data.pop(name)), 1):
            log.info("measuring %s of %s (%d of %d)", name, names[number - 1], number, len(models))
            measured = run_task(name, values, encoder=model.encoder, batch_size=_BATCH_SIZE.value, data=opened)
            described = model.description() | {"in_workdir": folder == model.results}
            found.append(results.result(name, values, measured, model=described, batch_size=_BATCH_SIZE.value))
            paths.append(str(results.write_result(found[-1], folder)))
        table = results.table(found[0]) if len(found) == 1 else results.comparison(found, names)
        print("\n".join([table, *paths, ""]), flush=True)
    return 0


def _checked_settings() -> Mapping[str, Any]:
    """The settings of every task that is asked for, by its name."""
    if not _TASK.value:
        raise UserError(f"--task is missing; name one or more of {', '.join(TASKS)}")
    check_names(_TASK.value)
    settings = {name: _SETTINGS[name]() for name in _TASK.value}
    for name, values in settings.items():
        check_task(values, path=f"--{name}")
        check_sources(values, path=f"--{name}")
        if not _MODEL.value and not TASKS[name].without_model(values):
            raise UserError("--model is missing; name a run's workdir, a checkpoint, a weight file or pixels")
        key = TASKS[name].folder
        if key and getattr(values, key) and len(_MODEL.value or ()) > 1:
            raise UserError(f"--{name}.{key} is a folder for one model; leave it out, or name one --model at a time")
    return settings


def _folders(models: Sequence[OpenedModel], names: Sequence[str]) -> list[Path]:
    """The folder of each model's results."""
    from flsl_jax.pictures.images import file_stem

    if _OUTPUT.value:
        return [Path(_OUTPUT.value, file_stem(name) if len(models) > 1 else "") for name in names]
    for model in models:
        if model.results is None:
            why = (
                f"{model.source} has no workdir for its results"
                if model.workdir is None
                else f"the results in {model.workdir} are its teacher's, not its student's"
            )
            raise UserError(f"--output is missing; {why}")
    return [model.results for model in models if model.results is not None]


def _open_data(name: str, settings: Any, models: Sequence[OpenedModel]) -> list[Any]:
    """The data of a task for each model; models of the same images share them."""
    from flsl_jax.evaluation.encoder import as_trained

    kinds = [tuple(as_trained(model.encoder).items()) for model in models]
    opened = {kind: open_task(name, settings, **dict(kind)) for kind in dict.fromkeys(kinds)}
    return [opened[kind] for kind in kinds]


if __name__ == "__main__":
    run_main(main)
