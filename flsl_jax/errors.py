"""Errors that a user can cause and correct, and the one way in which commands report them."""

import difflib
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence

if typing.TYPE_CHECKING:
    from absl import flags


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what is wrong, where, what was expected, what to do."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason(error: Exception) -> str:
    """Why something failed, in one line: the system's words, without path and number, or the first line of the message."""
    return getattr(error, "strerror", None) or first_line(error)


def run_main(main: Callable[[Sequence[str]], int | None]) -> None:
    """Runs a command's `main` on the arguments that are not flags, and exits: with 0 if the job is done, with 2 after an error.

    `--help` prints the command's own flags and exits with 0. A `UserError` is printed as one line. So is an unknown flag, a
    flag of a wrong type, and a key that the config does not have.
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
    """Sets the flags from a command line, which starts with the program's name, and returns the arguments that are not flags.

    After `--help` the program ends.

    Raises:
        UserError: a flag is unknown, or its value has the wrong type; names the flag.
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
    except (
        BrokenPipeError
    ):  # --help was piped into `head` or a pager that ended; Python would fail again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # absl and config files raise many types; each means that the command line is wrong
        raise UserError(f"command line: {_plain_words(str(error))}") from error


# What absl and ml_collections say about a wrong flag, and what the user reads instead.
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
