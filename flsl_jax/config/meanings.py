"""What the keys of the configuration mean, read from the docstrings of their dataclasses: for `--help` and docs/config.md."""

import inspect
import re

_HEADING = "Attributes:"


def prose(kind: type) -> list[str]:
    """The paragraphs of a dataclass's docstring before its list of keys, each in one line."""
    before = _docstring(kind).partition(_HEADING)[0]
    return [" ".join(paragraph.split()) for paragraph in before.strip().split("\n\n")]


def meanings(kind: type) -> dict[str, str]:
    """What each key of a dataclass means, in the order of the docstring's list, each in one line.

    The list has the form of Google's docstrings: a line `key: text` under "Attributes:", indented, and more lines of the text
    indented further. A dataclass that has another one's keys lists its own alone.
    """
    inherited = [base for base in kind.__bases__ if base is not object]
    _, _, listed = _docstring(kind).partition(f"{_HEADING}\n")
    entries = re.split(r"^ {4}(?=\S)", listed, flags=re.MULTILINE)
    pairs = [entry.partition(":") for entry in entries if entry.strip()]
    own = {key: " ".join(text.split()) for key, _, text in pairs}
    return {key: text for base in inherited for key, text in meanings(base).items()} | own


def _docstring(kind: type) -> str:
    return inspect.cleandoc(kind.__doc__ or "")
