"""The command `flsl`: `flsl train …` is `python -m flsl_jax.main …`, and likewise for the other commands."""

import difflib
import runpy
import sys
from typing import NoReturn

from flsl_jax import keyboard
from flsl_jax._version import __version__
from flsl_jax.command_line import answer_version

# Command -> its module, and what it is for.
COMMANDS = {
    "train": ("main", "train a network on a folder of images, or continue a run"),
    "evaluate": ("evaluate", "measure the features of a trained network"),
    "visualize": ("visualize", "draw what a network sees in images"),
    "study": ("study", "train a grid of variants, such as the paper's ablations, and write one page"),
    "transfer": ("transfer", "train a detector or segmenter on a trained network, and measure AP or mIoU"),
    "convert": ("convert", "write weights that timm, transformers, detectron2 and others load"),
    "embed": ("embed", "write features of your images as files: .npz, .npy, Parquet or CSV"),
    "prepare": ("prepare", "pack a folder of images into shards, which are read faster"),
    "doctor": ("doctor", "say what would go wrong with a training here, before it is started"),
}

_HELP = """\
FLSL: self-supervised pretraining of vision transformers for dense prediction. Version {version}.

usage: flsl COMMAND [--flag=value ...]

{commands}

flsl COMMAND --help lists the flags of a command, and flsl --version prints the version. To begin:

  flsl train --config=quickstart --workdir=runs/quickstart                    (minutes on a CPU; needs no images)    
  flsl train --config=vits16 --workdir=runs/mine --config.data.root=FOLDER    (your own images, on a GPU)
"""


def main() -> NoReturn:
    """Runs the command that the first argument names, with the other arguments, and exits with its code."""
    keyboard.watch()
    command, *arguments = sys.argv[1:] or [""]
    if command in ("--help", "-h", "help"):
        print(_help(), end="")
        sys.exit(0)
    if command in ("--version", *COMMANDS):  # of a command too: some import much before they look at their flags
        answer_version(sys.argv[1:])
    if not command:
        sys.stderr.write(_help())
        sys.exit(2)
    if command not in COMMANDS:
        sys.stderr.write(f"error: unknown command {command!r}; {_hint(command)}\n")
        sys.exit(2)
    sys.argv[1:] = arguments
    runpy.run_module(f"flsl_jax.{COMMANDS[command][0]}", run_name="__main__", alter_sys=True)
    sys.exit(0)


def _help() -> str:
    commands = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in COMMANDS.items())
    return _HELP.format(version=__version__, commands=commands)


def _hint(command: str) -> str:
    if command.startswith("-"):
        return f"a command comes first: {', '.join(COMMANDS)}"
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
