"""Batches of images of many sizes: those of one size together, so that few programs are compiled."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

# Batches in work at a time: one is computed while the one before it is fetched.
_IN_FLIGHT = 2


def map_by_shape(
    function: Callable[..., Any],
    images: Iterable[np.ndarray | tuple[np.ndarray, ...]],
    *,
    batch_size: Callable[[tuple[int, ...]], int],
    devices: int = 1,
) -> Iterator[tuple[int, Any]]:
    """Applies a function to images, those of one shape in one batch.

    Full batches are computed as soon as they are full. What is left at the end is filled up with copies of an image to the next
    of batch_size / 1, 2, 4, …, rounded up, so that few lengths are compiled and less than half of a batch is wasted.

    Args:
        function: maps a batch [b, …] to a pytree of arrays with a leading axis of b, each row by itself. Of tuples of arrays it
            gets a batch for each place.
        images: arrays of any shapes, or tuples of them, whose shapes then all count.
        batch_size: images in a full batch, from the shape of the first array; a multiple of `devices`.
        devices: what the length of every batch is a multiple of.

    Yields:
        The place of an image among all, from 0, and its pytree of NumPy arrays; images of one shape in their order.
    """
    waiting: dict[Any, list[tuple[int, tuple[np.ndarray, ...]]]] = {}
    running: deque[tuple[list[int], Any]] = deque()

    def start(group: list[tuple[int, tuple[np.ndarray, ...]]]) -> None:
        length = batch_size(group[0][1][0].shape)
        while (half := -(-length // (2 * devices)) * devices) < length and half >= len(group):
            length = half
        rows = [group[row][1] for row in np.minimum(np.arange(length), len(group) - 1)]
        running.append(([place for place, _ in group], function(*map(np.stack, zip(*rows)))))

    for place, image in enumerate(images):
        arrays = image if isinstance(image, tuple) else (image,)
        key = tuple(array.shape for array in arrays)
        group = waiting.setdefault(key, [])
        group.append((place, arrays))
        if len(group) >= batch_size(arrays[0].shape):
            start(waiting.pop(key))
        while len(running) >= _IN_FLIGHT:
            yield from _fetched(*running.popleft())
    for group in waiting.values():
        start(group)
        while len(running) >= _IN_FLIGHT:
            yield from _fetched(*running.popleft())
    while running:
        yield from _fetched(*running.popleft())


def _fetched(places: list[int], result: Any) -> Iterator[tuple[int, Any]]:
    arrays = jax.device_get(result)
    for row, place in enumerate(places):
        yield place, jax.tree.map(lambda array, row=row: array[row], arrays)
