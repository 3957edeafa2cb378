"""Errors a person can cause and mend, and the one way a front door reports them."""

import sys
import typing
from collections.abc import Callable, Sequence

if typing.TYPE_CHECKING:
    from absl import flags


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what, where, what was expected, what to do."""


def run_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a front door's `main` on what the flags leave over, and exits: 0 when the job is done, 2 after one clear line.

    `--help` prints the door's own flags. Flags that are unknown or of a wrong type, and keys that a config lacks, are one
    line like every other `UserError`.
    """
    from absl import app, flags

    app.define_help_flags()
    try:
        code = main(_parsed(flags.FLAGS, sys.argv))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    sys.exit(code or 0)


def _parsed(flag_values: "flags.FlagValues", arguments: Sequence[str]) -> Sequence[str]:
    try:
        return flag_values(arguments)
    except Exception as error:  # absl and config files raise as they please; all of it is the command line's fault
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise UserError("command line: " + " ".join(message.split())) from error
