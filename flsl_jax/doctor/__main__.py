"""Says what would go wrong with a training here, before it is started: `flsl doctor --config=vits16 --workdir=runs/mine`.

  python -m flsl_jax.doctor                                                  the machine alone
  python -m flsl_jax.doctor --config=vits16 --config.data.root=FOLDER        the config and its images too
  python -m flsl_jax.doctor --workdir=runs/mine                              a run: its config, images and checkpoints

Give it the --config and --workdir that you want to train with, and the same --config.key=value. It looks at the packages, the
devices and their speed, memory and disk, at a sample of the images, and at the newest checkpoint, which it reads whole. That
takes some seconds, and longer for a data set of millions of files or a checkpoint of many GiB. Nothing on the disk is changed.

Each line is green (fine), yellow (a training would run, but look at it) or red (it would not start, or would fail), and says
what to do unless it is green. The exit code is 0 if all lines are green, 1 if there is a yellow one, 2 if there is a red one
or the command itself is wrong.
"""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from absl import flags

from flsl_jax.command_line import run_main
from flsl_jax.config import Config
from flsl_jax.config.files import config_names, define_config_flag
from flsl_jax.doctor.examine import checked_config, examine
from flsl_jax.doctor.finding import COLOURS, Examination, Finding
from flsl_jax.doctor.report import TextReport, as_json, last_line
from flsl_jax.workdir import read_run_config

_CONFIG = define_config_flag(
    "config",
    help_string=f"A config by its name ({', '.join(config_names())}), a Python file with get_config(), or a run: its "
    "workdir or the config.json there. --config.key=value overrides any of its keys. Without it, that of the run in --workdir.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run that is to begin, which need not exist yet, or to continue."
)
_JSON = flags.DEFINE_bool(
    "json",
    False,
    "Print one JSON object instead of text: version, worst colour, and findings with name, colour, found, advice.",
)

_WIDEST = 120


def main() -> int:
    """Examines, prints, and gives the exit code."""
    _leave_things_alone()
    exam = Examination() if _JSON.value else Examination(_print_lines())
    workdir = Path(_WORKDIR.value) if _WORKDIR.value else None
    examine(exam, read_config=_read_config(workdir), workdir=workdir)
    if _JSON.value:
        print(as_json(exam.findings, worst=exam.worst))
    else:
        print(f"\n{last_line(exam.findings, worst=exam.worst)}")
    return COLOURS.index(exam.worst)


def _read_config(workdir: Path | None) -> Callable[[], Config] | None:
    """What reads the config of the flag or, without it, of the run; None if neither is named."""
    if _CONFIG.value is not None:
        values = _CONFIG.value.to_dict()
        return lambda: checked_config(values)
    return None if workdir is None else lambda: read_run_config(workdir)


def _leave_things_alone() -> None:
    """No log between the lines, no memory of a GPU taken in advance, nothing compiled kept on the disk."""
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def _print_lines() -> Callable[[Finding], None]:
    """What prints each finding as soon as it is there."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    report = TextReport(width=min(_WIDEST, shutil.get_terminal_size((100, 24)).columns), coloured=coloured)

    def tell(finding: Finding) -> None:
        print(report.lines(finding), end="", flush=True)

    return tell


if __name__ == "__main__":
    run_main(main)
