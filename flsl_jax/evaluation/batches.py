"""Batches for an encoder: all of one shape, so that everything compiles once, and how many images fit into one."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from flsl_jax.evaluation.encoder import Encoder

# Batches on their way at a time: one is computed while the one before it is fetched and the next one is read.
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
    batches = ([array[start : start + batch_size] for array in arrays] for start in range(0, length, batch_size))
    done = list(map_stream(function, batches, batch_size=batch_size, sharding=sharding))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *done)


def map_stream(
    function: Callable[..., Any],
    batches: Iterable[Sequence[np.ndarray]],
    *,
    batch_size: int,
    sharding: Sharding | None = None,
) -> Iterator[Any]:
    """Applies a function to batches as they come; the next is read while the devices work on the one before.

    Args:
        function: as of `map_batches`.
        batches: host arrays of one length, from 1 to `batch_size` rows; shorter ones are filled up with copies of their
            last row, which are dropped again.
        batch_size: rows a call.
        sharding: as of `map_batches`.

    Yields:
        The function's pytree for every batch, in order, of NumPy arrays with as many rows as the batch.
    """
    waiting: collections.deque[tuple[int, Any]] = collections.deque()
    for batch in batches:
        rows = np.minimum(np.arange(batch_size), len(batch[0]) - 1)
        full = batch if len(batch[0]) == batch_size else [array[rows] for array in batch]
        waiting.append((len(batch[0]), function(*(full if sharding is None else jax.device_put(full, sharding)))))
        if len(waiting) == _IN_FLIGHT:
            yield _fetched(*waiting.popleft())
    while waiting:
        yield _fetched(*waiting.popleft())


def _fetched(length: int, result: Any) -> Any:
    return jax.tree.map(lambda array: array[:length], jax.device_get(result))


def images_at_once(encoder: Encoder, *, size: tuple[int, int], batch_size: int) -> int:
    """Images whose attention takes the memory of `batch_size` images of the training size, as a multiple of the devices.

    Attention grows with the square of the tokens: at 480 × 832 it is 63 times that of 224 × 224. Smaller images than the
    training's come `batch_size` at a time.

    Args:
        encoder: which knows its training size.
        size: height and width in pixels.
        batch_size: images of the training size.
    """
    devices = jax.local_device_count()
    share = min(1.0, (encoder.image_size**2 / (size[0] * size[1])) ** 2)
    return max(1, int(batch_size * share) // devices) * devices
