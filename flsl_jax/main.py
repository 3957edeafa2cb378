"""Trains FLSL: `python -m flsl_jax.main --config=configs/vits16.py --workdir=DIR [--config.key=value …]`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from flsl_jax.config import parse_config
from flsl_jax.config.files import config_names, define_config_flag
from flsl_jax.errors import UserError, run_main

_CONFIG = define_config_flag(
    "config",
    help_string=f"A config by its name ({', '.join(config_names())}), or a Python file with get_config(). --config.key=value "
    "overrides any of its keys.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run: checkpoints, metrics and curves. The same command again continues the run in it.",
)

# EX_TEMPFAIL of sysexits.h: not done, the same command goes on.
_STOPPED_EARLY = 75


def main(arguments: Sequence[str]) -> int:
    """Checks the flags and trains."""
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; flags are written --name=value")
    if _CONFIG.value is None:
        raise UserError("--config is missing; name a config, such as --config=quickstart, or a file with get_config()")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name the folder of the run, such as --workdir=runs/first")
    config = parse_config(_CONFIG.value.to_dict())
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("flsl_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)

    from flsl_jax.loop import summary, train

    workdir = Path(_WORKDIR.value)
    outcome = train(config, workdir=workdir)
    print(summary(config, workdir=workdir, outcome=outcome))
    return 0 if outcome.finished else _STOPPED_EARLY


if __name__ == "__main__":
    run_main(main)
