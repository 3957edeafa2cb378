"""What the commands (main, evaluate, study, convert and others) share: flags, errors in one line, exit codes, the log."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from absl import app, flags

from flsl_jax import keyboard
from flsl_jax._version import __version__
from flsl_jax.errors import UserError

_T = TypeVar("_T")

# As shells have it of a program that SIGPIPE ended.
_BROKEN_PIPE = 141


def run_main(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main` and exits with its code: 0 if the job is done, 2 after an error, 141 if nobody reads the output.
    Ctrl-C ends it as SIGINT ends any program, after one line instead of a traceback.

    `--help` prints the command's own flags, `--version` the version, and both exit with 0. A `UserError` is printed as one
    line. So is an unknown flag, a flag of a wrong type, an argument that is not a flag, and a key that the config lacks.
    """
    keyboard.watch()
    app.define_help_flags()
    flags.DEFINE_bool("version", False, "Print the version and end.", module_name=sys.argv[0])
    try:
        answer_version(sys.argv[1:])
        stray = parse_flags(flags.FLAGS, sys.argv)[1:]
        if stray:
            raise UserError(f"unexpected argument {stray[0]!r}; flags are written --name=value")
        keyboard.running()
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        code = _BROKEN_PIPE
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = 2
    except KeyboardInterrupt:
        sys.stdout.flush()
        keyboard.end_by_interrupt()
    sys.exit(code)


def answer_version(arguments: Sequence[str]) -> None:
    """Prints the version and ends the program if that is asked for, whatever else is on the command line."""
    if {"--version", "-version"} & set(arguments):
        print(f"flsl_jax {__version__}")
        sys.exit(0)


def required(flag: flags.FlagHolder[_T | None], example: str) -> _T:
    """The value of a flag that has no default.

    Args:
        flag: the flag.
        example: a value that it could have, for the message.

    Raises:
        UserError: the flag is missing or empty.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing; such as --{flag.name}={example}")
    return flag.value


def local_path(path: str | os.PathLike[str], *, flag: str, advice: str = "copy it there when it is done") -> Path:
    """A path to write to, which must be of this machine's file system.

    Args:
        path: as it was given.
        flag: what it was given as, for the message.
        advice: what the message ends with.

    Raises:
        UserError: it is a URL, of an object store for example.
    """
    text = os.fspath(path)
    if re.match("[a-z0-9]+://", text):
        raise UserError(f"{flag}={text} is no path of this machine; name one, or mount the bucket; {advice}")
    return Path(path)


def show_log(level: int = logging.INFO) -> None:
    """Writes what flsl_jax logs, from a level on, and warnings of other libraries, to stderr as plain lines."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("flsl_jax").setLevel(level)
    logging.getLogger("absl").setLevel(logging.ERROR)


def parse_flags(flag_values: flags.FlagValues, arguments: Sequence[str]) -> Sequence[str]:
    """Sets the flags from a command line, which starts with the program's name, and returns the arguments that are not flags.

    After `--help` the program ends.

    Raises:
        UserError: a flag is unknown, or its value has the wrong type; names the flag.
    """
    try:
        return flag_values(arguments)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flag_values), n=1)
        meant = f"did you mean --{near[0]}?" if near else "--help lists them"
        raise UserError(f"command line: unknown flag --{error.flagname}; {meant}") from error
    except SystemExit:  # absl ends --help with 1, as if it had failed
        sys.exit(0)
    except BrokenPipeError:
        _discard_output()
        sys.exit(0)
    except Exception as error:  # absl and config files raise many types; each means that the command line is wrong
        raise UserError(f"command line: {_plain_words(str(error))}") from error


def _discard_output() -> None:
    """For output that was piped into `head` or a pager which has ended: Python would fail again when it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# What absl and ml_collections say about a wrong flag, and what the user reads instead.
_PLAIN_WORDS = (
    (r"invalid literal for int\(\).*", "expected a whole number"),
    (r"could not convert string to float.*", "expected a number"),
    (r"Failed to parse .* as a ConfigDict.*", "it is a group of keys; set one of them by its name after a dot"),
    (r"\('Non-boolean argument to boolean flag'.*", "expected True or False"),
    (r".*Did you mean \"(.*)\" instead of \"(.*)\".*", r'unknown key "\2"; did you mean "\1"?'),
    (r"\"'(\w+)'\"", r'unknown key "\1"; `flsl train --help` and docs/config.md list those that there are'),
)


def _plain_words(message: str) -> str:
    line = " ".join(message.replace("\\n", " ").split())
    for pattern, words in _PLAIN_WORDS:
        line = re.sub(pattern, words, line)
    return line
