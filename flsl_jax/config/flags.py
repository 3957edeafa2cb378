"""Groups of command-line flags from the dataclasses of the configuration: `--bbox_knn.train.root=DIR`.

`ml_collections.config_flags` reads the command line as soon as a group is defined, when no command can turn its errors into
one line yet. These flags are therefore plain absl flags with a dot in their names.
"""

import dataclasses
import textwrap
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from absl import flags

from flsl_jax.config.meanings import meanings, prose
from flsl_jax.config.parsing import parse
from flsl_jax.config.ranges import Range, range_of

_T = TypeVar("_T")
_WIDTH, _FLAG_WIDTH, _INDENT = 100, 40, " " * 6


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One key that holds a value: its path of names below the group, its type and its default."""

    path: tuple[str, ...]
    hint: Any
    default: Any


def define_group(name: str, kind: type[_T]) -> Callable[[], _T]:
    """Defines a flag for every key of a dataclass and of those inside it, with the dataclass's defaults.

    Args:
        name: the group's name, before the first dot.
        kind: the dataclass.

    Returns:
        A function that gives the dataclass as the flags say, once they have been parsed. It raises a `UserError` that
        names the flag where a value is not a valid one.
    """
    holders = {leaf.path: _define(f"{name}.{'.'.join(leaf.path)}", leaf) for leaf in _leaves(kind(), path=())}

    def read() -> _T:
        values: dict[str, Any] = {}
        for path, holder in holders.items():
            group = values
            for part in path[:-1]:
                group = group.setdefault(part, {})
            group[path[-1]] = holder.value
        return parse(kind, values, path=f"--{name}")

    return read


def describe_group(name: str, kind: type) -> str:
    """A group for `--help`: what the dataclass is, then each flag with its default, its range and its meaning.

    A group of keys inside it has one line with its name; `describe_kind` lists its keys once for all that share them.
    """
    values, inner, told = [], [], meanings(kind)
    for field in dataclasses.fields(kind):
        default = getattr(kind(), field.name)
        if dataclasses.is_dataclass(default):
            line = f"--{name}.{field.name}.KEY=…, the keys of {type(default).__name__} below"
            inner += [line, *_indented(told.get(field.name, ""))]
        else:
            values += _lines(f"--{name}.{field.name}={_shown(default)}", kind, field.name)
    return "\n".join([_paragraphs(kind), *inner, *values])


def describe_kind(kind: type) -> str:
    """The keys of a group that several others hold, with their defaults, ranges and meanings, for `--help`."""
    keys = [field.name for field in dataclasses.fields(kind)]
    lines = [line for key in keys for line in _lines(f"{key}={_shown(getattr(kind(), key))}", kind, key)]
    return "\n".join([f"=== {kind.__name__} ===", _paragraphs(kind), *lines])


def _lines(flag: str, kind: type, key: str) -> list[str]:
    """A flag with its default, the values that it takes beside it, and its meaning below."""
    hint = typing.get_type_hints(kind, include_extras=True)[key]
    within = range_of(hint)
    takes = within.describe() if within else " | ".join(map(str, typing.get_args(hint)))
    return [f"{flag:<{_FLAG_WIDTH}}{takes}".rstrip(), *_indented(meanings(kind).get(key, ""))]


def _indented(meaning: str) -> list[str]:
    return textwrap.wrap(meaning.replace("`", ""), _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _paragraphs(kind: type) -> str:
    """What the docstring says of the whole group, wrapped to the width of the help and without backquotes."""
    return "\n".join(textwrap.fill(paragraph.replace("`", ""), _WIDTH) for paragraph in prose(kind))


def _leaves(group: Any, *, path: tuple[str, ...]) -> Iterator[_Leaf]:
    hints = typing.get_type_hints(type(group))
    for field in dataclasses.fields(group):
        value, place = getattr(group, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, path=place)
        else:
            yield _Leaf(place, hints[field.name], value)


def _define(name: str, leaf: _Leaf) -> flags.FlagHolder:
    if typing.get_origin(leaf.hint) is Literal:
        return flags.DEFINE_enum(name, leaf.default, list(typing.get_args(leaf.hint)), "")
    if typing.get_origin(leaf.hint) is tuple:
        return flags.DEFINE(NumbersParser(typing.get_args(leaf.hint)[0]), name, leaf.default, "")
    define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    return define[leaf.hint](name, leaf.default, "")


class FloatParser(flags.ArgumentParser):
    """A float in a range, for `flags.DEFINE`; absl's own bounds let NaN and infinities through."""

    def __init__(self, field_range: Range) -> None:
        self._range = field_range
        self.syntactic_help = field_range.describe()

    def parse(self, argument: str | float) -> float:
        """The number; raises `ValueError`, which absl passes on with the flag's name."""
        number = float(argument)
        if number not in self._range:
            raise ValueError(f"expected {self._range.expected(number)}")
        return number

    def flag_type(self) -> str:
        """The type's name in absl's `--helpxml`."""
        return "float"


class NumbersParser(flags.ArgumentParser):
    """Comma-separated values of one type."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def parse(self, argument: str | tuple[Any, ...]) -> tuple[Any, ...]:
        if not isinstance(argument, str):
            return tuple(argument)
        try:
            return tuple(self._kind(part) for part in argument.strip("()[] ").split(",") if part.strip())
        except ValueError as error:
            numbers = {int: "whole numbers", float: "numbers"}[self._kind]
            raise ValueError(f"expected {numbers} with commas between them") from error


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
