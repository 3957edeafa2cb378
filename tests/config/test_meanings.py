"""What keys mean, from docstrings; no key is without."""

import dataclasses
import typing

import pytest

from flsl_jax.config import Config
from flsl_jax.config.meanings import meanings, prose


def groups(kind):
    """A dataclass of the configuration and all inside it."""
    inner = [hint for hint in typing.get_type_hints(kind).values() if dataclasses.is_dataclass(hint)]
    return {kind}.union(*map(groups, inner))


@pytest.mark.parametrize("kind", sorted(groups(Config), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_the_docstring_of_every_group_says_what_each_key_means(kind):
    told = meanings(kind)
    assert list(told) == [field.name for field in dataclasses.fields(kind)]
    assert [key for key, text in told.items() if not text.endswith(".")] == []
    assert all(prose(kind))


class Example:
    """What it is.

    More of it, in
    two lines.

    Attributes:
        first: a text that
            goes on: here.
        second: another.
    """


def test_lines_that_go_on_belong_to_their_key():
    assert prose(Example) == ["What it is.", "More of it, in two lines."]
    assert meanings(Example) == {"first": "a text that goes on: here.", "second": "another."}
