"""Frozen features of many images, in batches of one shape so that everything compiles once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

# Batches on their way at a time: one is computed while the one before it is fetched.
_IN_FLIGHT = 2


def map_batches(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray],
    *,
    batch_size: int,
    sharding: Sharding | None = None,
) -> Any:
    """Applies a function to the rows of host arrays, `batch_size` rows a call, and gathers its results on the host.

    Args:
        function: maps one batch of every array to a pytree of arrays with a leading axis of `batch_size`, each row by
            itself. Jit it: every call has the same shapes.
        arrays: with one length, at least 1.
        batch_size: rows a call; the last batch is filled up with copies of the last row, which are dropped again.
        sharding: where batches are put, on devices of this process; None leaves that to the function.

    Returns:
        The function's pytree, of NumPy arrays with the length of `arrays`.

    Raises:
        ValueError: there is no row, or the lengths differ.
    """
    length = len(arrays[0])
    if length == 0 or any(len(array) != length for array in arrays):
        raise ValueError(f"arrays have {[len(array) for array in arrays]} rows; expected one length, at least 1")
    waiting: list[Any] = []
    done: list[Any] = []
    for rows in _batch_rows(length, batch_size=batch_size):
        batch = [array[rows] for array in arrays]
        waiting.append(function(*(batch if sharding is None else jax.device_put(batch, sharding))))
        if len(waiting) == _IN_FLIGHT:
            done.append(jax.device_get(waiting.pop(0)))
    done.extend(jax.device_get(waiting))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:length], *done)


def _batch_rows(length: int, *, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, length, batch_size):
        yield np.minimum(np.arange(start, start + batch_size), length - 1)
