"""What the objective's functions refuse: shapes that would silently be broadcast, and numbers out of range.

Shapes are known while a function is traced, and are always checked. The value of a number is checked unless it is traced.
"""

import math

import numpy as np
from jax.core import Tracer

from flsl_jax.typing import Array


def check_same_shape(**arrays: Array | np.ndarray) -> None:
    """Refuses two arrays, given by their names, whose shapes differ.

    Raises:
        ValueError: names both with their shapes.
    """
    (first, one), (second, other) = arrays.items()
    if one.shape != other.shape:
        raise ValueError(f"{first} has shape {one.shape}, but {second} {other.shape}; expected the same")


def check_shape(name: str, array: Array | np.ndarray, expected: tuple[int, ...], *, meaning: str) -> None:
    """Refuses an array of another shape.

    Raises:
        ValueError: names the array, its shape, and the expected one with its meaning.
    """
    if array.shape != expected:
        raise ValueError(f"{name} has shape {array.shape}; expected {expected}, {meaning}")


def check_scalar(name: str, value: float | Array) -> None:
    """Refuses what is not a single number.

    Raises:
        ValueError: names it and its shape.
    """
    if np.ndim(value):
        raise ValueError(f"{name} has shape {np.shape(value)}; expected one number")


def check_number(name: str, value: float | Array, *, low: float, high: float = math.inf, above: bool = False) -> None:
    """Refuses what is not a single number from `low` to `high`, or with `above` more than `low`.

    Raises:
        ValueError: names the number, and its shape or value.
    """
    check_scalar(name, value)
    if isinstance(value, Tracer):
        return
    reaches = low < value if above else low <= value
    if not (reaches and value <= high):
        words = f"more than {low:g}" if above else f"{low:g} or more"
        raise ValueError(f"{name} is {value}; expected {words if math.isinf(high) else f'{low:g} to {high:g}'}")


def check_temp(name: str, value: float | Array) -> None:
    """Refuses a temperature that is not a single number above 0; it divides.

    Raises:
        ValueError: names it, and its shape or value.
    """
    check_number(name, value, low=0.0, above=True)
