"""Errors that a user can cause and correct, and how reasons are told in one line."""


class UserError(ValueError):
    """A wrong config, path, file or flag. The message is one line: what is wrong, where, what was expected, what to do."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def reason(error: Exception) -> str:
    """Why something failed, in one line: the system's words, without path and number, or the first line of the message."""
    return getattr(error, "strerror", None) or first_line(error)
