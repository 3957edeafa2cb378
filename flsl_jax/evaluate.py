"""Judges frozen features: `python -m flsl_jax.evaluate --model=runs/quickstart --task=bbox_knn --bbox_knn.train.root=DIR …`.

Every task takes every model: a run's workdir, a checkpoint, a weight file, or a baseline to compare with. A task prints a
table and writes TASK.json with its numbers, every parameter of its protocol, and the model and machine that gave them.
"""

from pathlib import Path

from absl import flags

from flsl_jax.command_line import run_main, show_log
from flsl_jax.config import MaskedSourceConfig, SourceConfig, check_sources, check_task
from flsl_jax.config.flags import define_group, describe_group, describe_kind
from flsl_jax.errors import UserError
from flsl_jax.evaluation.tasks import TASKS, check_names, open_task, run_task

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "What to judge: a run's workdir, WORKDIR/checkpoints/STEP, a weight file; or, to compare with, untrained:WORKDIR (what "
    "that run started from), pixels:WORKDIR (raw pixels in its patches), or pixels (with --patch_size).",
)
_TASK = flags.DEFINE_list("task", None, f"One or more of {', '.join(TASKS)}, with commas between them.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for the TASK.json files; default: WORKDIR/results, where the run's report finds them.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images encoded at a time.", lower_bound=1)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 0, "Patch size of --model=pixels, in pixels.", lower_bound=0)
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads", 0, "Heads of a weight file that does not give them; 0: of 64 channels each.", 0
)
_SETTINGS = {name: define_group(name, task.settings) for name, task in TASKS.items()}

_TASK_HELP = "".join(
    f"\n=== {name} ===\n{task.judges}\nNeeds: {task.needs}.\n{describe_group(name, task.settings)}\n"
    for name, task in TASKS.items()
)
_SOURCE_HELP = "".join(f"\n{describe_kind(kind)}\n" for kind in (SourceConfig, MaskedSourceConfig))
# What --help prints.
__doc__ = f"{__doc__}\nTasks, each with its flags and their defaults:\n{_TASK_HELP}{_SOURCE_HELP}"


def main() -> int:
    """Checks the flags, then opens the model and all data, then runs one task after another."""
    if not _TASK.value:
        raise UserError(f"--task is missing; name one or more of {', '.join(TASKS)}")
    check_names(_TASK.value)
    settings = {name: _SETTINGS[name]() for name in _TASK.value}
    for name, values in settings.items():
        check_task(values, path=f"--{name}")
        check_sources(values, path=f"--{name}")
        if not _MODEL.value and not TASKS[name].without_model(values):
            raise UserError("--model is missing; name a run's workdir, a checkpoint, a weight file or pixels")
    show_log()

    from flsl_jax.evaluation import results
    from flsl_jax.evaluation.open_model import open_model
    from flsl_jax.host_memory import keep_host_memory

    keep_host_memory()
    model = open_model(_MODEL.value or "", patch_size=_PATCH_SIZE.value, num_heads=_NUM_HEADS.value)
    folder = Path(_OUTPUT.value) if _OUTPUT.value else model.results
    if folder is None:
        raise UserError(f"--output is missing; {model.source} has no workdir for its results")
    sizes = {"patch_size": model.encoder.patch_size, "image_size": model.encoder.image_size}
    data = {name: open_task(name, values, **sizes) for name, values in settings.items()}
    results.check_writable(folder)
    for name, values in settings.items():
        measured = run_task(name, values, encoder=model.encoder, batch_size=_BATCH_SIZE.value, data=data.pop(name))
        result = results.result(name, values, measured, model=model.description(), batch_size=_BATCH_SIZE.value)
        path = results.write_result(result, folder)
        print(f"{results.table(result)}\n{path}\n", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
