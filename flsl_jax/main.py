"""Trains FLSL: `python -m flsl_jax.main --config=configs/vits16.py --workdir=DIR [--config.key=value …]`."""

import logging
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from flsl_jax.config import parse_config
from flsl_jax.errors import UserError, run_door

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Python file with get_config(), such as configs/quickstart.py. --config.key=value overrides any of its keys.",
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
        raise UserError("--config is missing; name a file such as --config=configs/quickstart.py")
    if not _WORKDIR.value:
        raise UserError("--workdir is missing; name the folder of the run, such as --workdir=runs/first")
    try:
        values = _CONFIG.value.to_dict()
    except (
        OSError
    ) as error:  # ml_collections notices a missing file when it is read first, and tells it over several lines
        raise UserError("--config: " + " ".join(str(error).split())) from error
    config = parse_config(values)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("flsl_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)

    from flsl_jax.loop import summary, train

    workdir = Path(_WORKDIR.value)
    outcome = train(config, workdir=workdir)
    print(summary(config, workdir=workdir, outcome=outcome))
    return 0 if outcome.finished else _STOPPED_EARLY


if __name__ == "__main__":
    run_door(main)
