"""The range and the unit of every number in the configuration, written on its field, and the one walk that checks them."""

import ctypes
import dataclasses
import math
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from flsl_jax.errors import UserError

# Steps, samples and sizes are int32 on the devices.
LARGEST_INT = 2**31 - 1
# JAX makes its root key from 32 bits of the seed.
LARGEST_SEED = 2**32 - 1
# With this many epochs, each may have 20,000 steps before the step number is too large for int32.
MOST_EPOCHS = 100_000


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, put on a field as `Annotated[float, Range(0, 1, unit="share of the loss")]`.

    On a tuple it holds for every element, on a group of keys (a `ScheduleConfig`) for its numbers without a range.
    A float must also lie in the range after it is rounded to float32, in which the devices compute.

    Attributes:
        low: the smallest number; no bound if it is left out.
        high: the largest number; if it is left out, no bound for a float and 2³¹ − 1 for an int.
        unit: what the number counts or measures; error messages show it.
        above: whether `low` itself is refused.
        below: whether `high` itself is refused.
        also: a number outside the range that is accepted too, such as -1 for "all".
    """

    low: int | float = -math.inf
    high: int | float = math.inf
    _: dataclasses.KW_ONLY
    unit: str
    above: bool = False
    below: bool = False
    also: int | None = None

    def __contains__(self, number: int | float) -> bool:
        if number == self.also:
            return True
        if isinstance(number, int):
            return self._between(number) and (number <= LARGEST_INT or math.isfinite(self.high))
        return self._between(number) and self._between(_as_float32(number))

    def describe(self) -> str:
        """The range and its unit, such as "more than 0 (epochs)"."""
        return f"{self._words()} ({self.unit})"

    def expected(self, number: int | float) -> str:
        """What was expected instead of a number that is not in the range, for an error message."""
        words, rounding = self._words(), ""
        if isinstance(number, int):
            words += f", at most {LARGEST_INT}" if self._between(number) else ""
        elif math.isinf(number):
            words += ", finite"
        elif self._between(number):
            rounding = f"; float32 rounds it to {_as_float32(number)}"
        return f"{words} ({self.unit}){rounding}"

    def _between(self, number: int | float) -> bool:
        over = self.low < number if self.above else self.low <= number
        under = number < self.high if self.below else number <= self.high
        return over and under and abs(number) != math.inf

    def _words(self) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            words = "any number"
        elif math.isinf(self.high):
            words = f"more than {self.low}" if self.above else f"{self.low} or more"
        elif self.above or self.below:
            low, high = "more than" if self.above else "at least", "less than" if self.below else "at most"
            words = f"{low} {self.low} and {high} {self.high}"
        else:
            words = f"a number from {self.low} to {self.high}"
        return words if self.also is None else f"{self.also}, or {words}"


Seed = Annotated[int, Range(0, LARGEST_SEED, unit="32-bit seed")]
Epochs = Annotated[float, Range(0, MOST_EPOCHS, unit="epochs")]
Probability = Annotated[float, Range(0, 1, unit="probability")]


def check_ranges(settings: Any, *, path: str) -> None:
    """Refuses the first number of a dataclass, or of one inside it, that is not in the range of its field.

    Args:
        settings: the dataclass.
        path: what the user calls it: "config" of a training run, "--video" on a command line.

    Raises:
        UserError: names the key, its value, and the range with its unit.
        TypeError: a field with a number has no `Range`.
    """
    for name, value, field_range in _numbers(settings, path=path, inherited=None):
        for number in value if isinstance(value, tuple) else (value,):
            if number not in field_range:
                each = " for each" if isinstance(value, tuple) else ""
                raise UserError(f"{name} is {value}; expected {field_range.expected(number)}{each}")


def _numbers(settings: Any, *, path: str, inherited: Range | None) -> Iterator[tuple[str, Any, Range]]:
    """Every value that is a number or a tuple of numbers, with the name of its key and its range."""
    hints = typing.get_type_hints(type(settings), include_extras=True)
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{path}.{field.name}"
        own = range_of(hints[field.name])
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, path=name, inherited=own)
        elif _is_number(value):
            found = own or inherited
            if found is None:
                raise TypeError(f"{type(settings).__name__}.{field.name} has no Range; write one into its annotation")
            yield name, value, found


def range_of(hint: Any) -> Range | None:
    """The range that a field's annotation holds, as `typing.get_type_hints(..., include_extras=True)` gives it."""
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range)), None)


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float32(number: float) -> float:
    return ctypes.c_float(number).value
