"""Errors a person can cause and mend, and the one way a front door reports them."""

import sys
from collections.abc import Callable, Sequence


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what, where, what was expected, what to do."""


def run_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a front door under absl and exits: 0 when the job is done, 2 after one clear line for a `UserError`.

    Args:
        main: the door's function; gets the arguments that are left after the flags. May return an exit code.

    Unknown or badly typed flags are reported the same way; `--help` prints the help of the door's own flags.
    """
    from absl import app

    try:
        code = main(app.parse_flags_with_usage(sys.argv))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    sys.exit(code or 0)
