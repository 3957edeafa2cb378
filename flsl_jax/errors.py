"""Errors a person can cause and mend, and the one way a front door reports them."""

import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence

if typing.TYPE_CHECKING:
    from absl import flags


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what, where, what was expected, what to do."""


def run_door(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a front door's `main` on what the flags leave over, and exits: 0 when the job is done, 2 after one clear line.

    `--help` prints the door's own flags and exits with 0. Flags that are unknown or of a wrong type, and keys that a config
    lacks, are one line like every other `UserError`.
    """
    from absl import app, flags

    app.define_help_flags()
    try:
        code = main(parse_flags(flags.FLAGS, sys.argv))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    sys.exit(code or 0)


def parse_flags(flag_values: "flags.FlagValues", arguments: Sequence[str]) -> Sequence[str]:
    """Sets the flags from a command line, program name first, and returns what is left over; ends the program after `--help`.

    Raises:
        UserError: a flag is unknown, or its value is of another type; names the flag.
    """
    from absl import flags

    try:
        return flag_values(arguments)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flag_values), n=1)
        meant = f"did you mean --{near[0]}?" if near else "--help lists them"
        raise UserError(f"command line: unknown flag --{error.flagname}; {meant}") from error
    except SystemExit:  # absl ends --help with 1, as if it had failed
        sys.exit(0)
    except BrokenPipeError:  # --help into `head` or a pager that was left; Python would complain again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # absl and config files raise as they please; all of it is the command line's fault
        raise UserError(f"command line: {_plain_words(str(error))}") from error


# How absl and ml_collections tell what is wrong with a flag, and how a person is told.
_PLAIN_WORDS = (
    (r"invalid literal for int\(\).*", "expected a whole number"),
    (r"could not convert string to float.*", "expected a number"),
    (r"\('Non-boolean argument to boolean flag'.*", "expected True or False"),
    (r".*Did you mean \"(.*)\" instead of \"(.*)\".*", r'unknown key "\2"; did you mean "\1"?'),
    (r"\"'(\w+)'\"", r'unknown key "\1"; the file that --config names shows those that there are'),
)


def _plain_words(message: str) -> str:
    line = " ".join(message.replace("\\n", " ").split())
    for pattern, words in _PLAIN_WORDS:
        line = re.sub(pattern, words, line)
    return line
