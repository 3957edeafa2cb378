"""Runs a grid of trainings: `python -m flsl_jax.study --study=centroids --config=quickstart --workdir=DIR [--seeds=0,1,2]`.

A study varies a base config, such as the paper's ablations do. Its runs are ordinary ones, each in WORKDIR/VARIANT-seedN.
They are trained one after another, then measured, and one page shows them beside the paper's numbers: WORKDIR/study.html,
with the same in study.json. The same command again goes on and skips what is done. SIGTERM or Ctrl-C saves first and exits
with code 75. docs/studies.md has the studies and says how to write one.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config.files import config_names, define_config_flag, describe_studies, study_names
from flsl_jax.config.parsing import require
from flsl_jax.errors import STOPPED_EARLY, UserError
from flsl_jax.studies.grid import Cell, Plan, check_data, choose, make_plan
from flsl_jax.studies.queue import LOG_FILE, last_line, run_queue

_DEFAULT_CONFIG = "ablation"

_STUDY = flags.DEFINE_string(
    "study", None, f"A study by its name ({', '.join(study_names())}), or a Python file with get_study(config)."
)
_CONFIG = define_config_flag(
    "config",
    help_string=f"The base config, by its name ({', '.join(config_names())}) or a file; {_DEFAULT_CONFIG} if it is left out. "
    "--config.key=value overrides any of its keys in every run.",
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study: the page, and a folder for each run.")
_SEEDS = flags.DEFINE_list(
    "seeds", [], "Seeds, with commas between them; each variant runs with each. Default: config.seed."
)
_TASKS = flags.DEFINE_list(
    "tasks",
    [],
    "Evaluation tasks at the end of each run, with their settings in config.evaluation; default: config.evaluation.tasks and "
    "the task of the study's first metric.",
)
_ONLY = flags.DEFINE_list(
    "only", [], "Numbers of the runs to do, as --list shows them; one of them runs in this process, for job arrays."
)
_PARALLEL = flags.DEFINE_integer("parallel", 1, "Runs at a time, on the same devices.", lower_bound=1)
_GPUS = flags.DEFINE_list("gpus", [], "Numbers of GPUs, such as 0,1,2,3: one run at a time on each.")
_IMAGES = flags.DEFINE_string(
    "images", "", "Images for the maps of all variants: a folder, a file, or scenes; scenes' own for runs on scenes."
)
_LIST = flags.DEFINE_bool("list", False, "Only print the runs, their numbers and how far they are.")
_PAGE_ONLY = flags.DEFINE_bool("page_only", False, "Only draw the maps and write the page, with what there is so far.")

# What --help prints.
__doc__ = f"{__doc__}\nStudies:\n{describe_studies()}\n"

# What a run's own process is told differently, and what the page leaves out of the command that goes on.
_CONTROL = ("--only", "--parallel", "--gpus", "--list", "--page_only")


def main() -> int:
    """Checks the flags and the whole grid, then lists it, runs it, or writes its page."""
    name = required(_STUDY, "centroids")
    seeds = [_whole("seeds", text) for text in _SEEDS.value]
    only = [_whole("only", text) for text in _ONLY.value]
    workdir = local_path(required(_WORKDIR, f"runs/{Path(name).stem}"), flag="--workdir")
    plan = make_plan(name, _CONFIG.value, seeds=seeds, tasks=_TASKS.value, workdir=workdir)
    cells = choose(plan, only)
    if _LIST.value:
        print(_listed(plan))
        return 0
    if _PAGE_ONLY.value:
        return _write_page(plan, maps=True)
    check_data(plan)
    if len(cells) == 1:
        return _run_here(plan, cells[0])
    return _run_all(plan, cells)


def _whole(flag: str, text: str) -> int:
    require(
        text.strip().isdecimal(), f"--{flag}={text}: expected whole numbers with commas between them, such as 0,1,2"
    )
    return int(text)


def _listed(plan: Plan) -> str:
    from flsl_jax.studies.progress import state

    width = max(len(cell.name) for cell in plan.cells)
    lines = [f"{plan.study.title}: {len(plan.study.variants)} variants, {len(plan.seeds)} seed(s), in {plan.workdir}"]
    for cell in plan.cells:
        what = plan.shown_changes(cell.variant)
        lines.append(f"{cell.index:>4}  {cell.name.ljust(width)}  {state(cell):<11}  {what}")
    return "\n".join(lines)


def _run_here(plan: Plan, cell: Cell) -> int:
    """One run in this process, and the page as it is then."""
    if _GPUS.value:
        os.environ["CUDA_VISIBLE_DEVICES"] = _GPUS.value[0]
    show_log()

    from flsl_jax.host_memory import keep_host_memory
    from flsl_jax.studies.cell import run_cell

    keep_host_memory()
    done = run_cell(cell)
    _write_page(plan, maps=False)
    return 0 if done else STOPPED_EARLY


def _write_page(plan: Plan, *, maps: bool) -> int:
    from flsl_jax.studies.maps import draw_maps
    from flsl_jax.studies.page import summary, write_study

    if maps:
        draw_maps(plan, images=_IMAGES.value)
    path = write_study(plan, command=shlex.join(["python", "-m", "flsl_jax.study", *_arguments()]))
    if maps:
        print(summary(plan))
    print(path, flush=True)
    return 0


def _run_all(plan: Plan, cells: Sequence[Cell]) -> int:
    """Each run in a process of its own; this one touches no device."""
    from flsl_jax.studies.progress import check_folder, state
    from flsl_jax.training.keeping.interrupt import Interrupt

    for cell in cells:
        check_folder(cell)
    try:
        plan.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={plan.workdir} cannot be made ({error.strerror}); name a folder that can"
        ) from error
    waiting = [cell for cell in cells if state(cell) != "done"]
    print(f"{plan.study.title}: {len(waiting)} of {len(cells)} runs to do in {plan.workdir}", flush=True)
    on_start, on_end = _reporters(cells, metric=plan.study.metrics[0])
    with Interrupt() as interrupt:
        codes = run_queue(
            waiting,
            slots=_GPUS.value or [None] * _PARALLEL.value,
            command=lambda cell: _command(f"--only={cell.index}"),
            stop=interrupt,
            on_start=on_start,
            on_end=on_end,
        )
        if interrupt.reason is not None:
            print(f"stopped by {interrupt.reason}; continue with the same command", flush=True)
            return STOPPED_EARLY
    return _finish(codes)


def _reporters(cells: Sequence[Cell], *, metric: str) -> tuple[Callable[[Cell], None], Callable[[Cell, int], None]]:
    """What is printed when a run starts and when it ends."""
    from flsl_jax.studies.progress import measured, state, subjects

    started: dict[str, float] = {}
    doing = {"not started": "starts", "begun": "goes on", "trained": "is measured", "done": "is done"}

    def say(cell: Cell, words: str) -> None:
        print(f"[{cells.index(cell) + 1}/{len(cells)}] {cell.name} {words}", flush=True)

    def on_start(cell: Cell) -> None:
        started[cell.name] = time.monotonic()
        say(cell, f"{doing[state(cell)]}; its output goes to {cell.folder / LOG_FILE}")

    def on_end(cell: Cell, code: int) -> None:
        if code == 0:
            task, _, name = metric.partition("/")
            value = measured(cell, subjects(cell)[0]).get(task, {}).get(name)
            found = "" if value is None else f": {metric} {value:.3f}"
            say(cell, f"is done after {(time.monotonic() - started[cell.name]) / 60:.1f} minutes{found}")
        elif code == STOPPED_EARLY:
            say(cell, "stopped early, saved")
        else:
            say(cell, f"failed: {last_line(cell.folder)}")

    return on_start, on_end


def _finish(codes: dict[str, int]) -> int:
    """Writes the page in a process of its own, which may use a device, and says what failed."""
    import subprocess

    written = subprocess.run(_command("--page_only"), check=False).returncode
    failed = [name for name, code in codes.items() if code not in (0, STOPPED_EARLY)]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(codes)} runs failed: {', '.join(failed)}; {LOG_FILE} in their folders says why, and the "
            "same command tries them again"
        )
    return written or (STOPPED_EARLY if STOPPED_EARLY in codes.values() else 0)


def _command(*control: str) -> list[str]:
    return [sys.executable, "-m", "flsl_jax.study", *_arguments(), *control]


def _arguments() -> list[str]:
    """The command line without what controls which part of the study is done."""
    kept, skip = [], False
    for argument in sys.argv[1:]:
        if skip:
            skip = False
            continue
        name = "--" + argument.lstrip("-").partition("=")[0]
        if name in _CONTROL:
            skip = "=" not in argument and name not in ("--list", "--page_only")
        else:
            kept.append(argument)
    return kept


def _with_default_config(arguments: Sequence[str]) -> list[str]:
    """A command line that names a config: its keys can be overridden only then."""
    named = any(argument.lstrip("-").partition("=")[0] == "config" for argument in arguments)
    return [*arguments] if named else [arguments[0], f"--config={_DEFAULT_CONFIG}", *arguments[1:]]


if __name__ == "__main__":
    sys.argv[:] = _with_default_config(sys.argv)
    run_main(main)
