"""Errors that a user can cause and correct, and how reasons are told in one line."""

import contextlib
import importlib
import logging
from collections.abc import Iterator

log = logging.getLogger(__name__)

# Exit code of a command that stopped early and that the same command goes on with: EX_TEMPFAIL of sysexits.h.
STOPPED_EARLY = 75


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what is wrong, where, what was expected, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class DataError(UserError):
    """The images end a run that is sound by itself, so that what it has learned is worth saving first."""


def one_line(text: str) -> str:
    """The text with each line break and other control character as an escape: names of files may hold any."""
    return "".join(char if char.isprintable() or char == " " else ascii(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason(error: Exception) -> str:
    """Why something failed, in one line: the system's words, without path and number, or the first line of the message."""
    return getattr(error, "strerror", None) or first_line(error)


@contextlib.contextmanager
def not_fatal(what: str) -> Iterator[None]:
    """Logs that something could not be written, a picture for example, where that must not end what is worth more."""
    try:
        yield
    except OSError as error:
        log.warning("%s could not be written (%s)", what, reason(error))


def require_packages(*packages: str, install: str) -> None:
    """Imports packages that are extras, so that what lacks one is said before anything begins.

    Args:
        packages: their names where they are imported; one that others need comes before them.
        install: the command that installs them.

    Raises:
        UserError: one is not installed, or does not work.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:  # a package that is installed but broken can raise anything
            raise UserError(import_problem(error, package=package, install=install)) from error


def import_problem(error: Exception, *, package: str, install: str) -> str:
    """Why a package could not be imported and what to do, in one line: it is not installed, or it is and does not work.

    Args:
        error: what the import raised.
        package: its name where it is imported.
        install: the command that installs it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{package} is not installed; {install}"
    return f"{package} is installed but cannot be imported ({type(error).__name__}: {first_line(error)}); repair it"
