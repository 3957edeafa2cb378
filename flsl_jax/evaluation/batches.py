"""Batches for an encoder: all of one shape, so that everything compiles once, and how many images fit into one."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from flsl_jax.evaluation.encoder import Encoder

# Batches in work at a time: one is computed while the one before it is fetched.
_IN_FLIGHT = 2
# On a CPU, of images with more tokens than this, so many products of two tokens are computed at once, in each head.
_MANY_TOKENS, _HOST_SCORES = 1024, 1 << 24


def map_stream(
    function: Callable[..., Any], batches: Iterable[Sequence[np.ndarray]], *, batch_size: int
) -> Iterator[Any]:
    """Applies a function to batches as they come; the next one is read while the devices work on the one before.

    Args:
        function: maps a batch of arrays to a pytree of arrays with a leading axis of `batch_size`, each row by itself. It
            always gets the same shapes, so that a jitted one compiles once.
        batches: host arrays of one length, from 1 to `batch_size` rows. Shorter ones are filled up with copies of their
            last row, and the results of these copies are dropped.
        batch_size: rows in a call.

    Yields:
        The function's pytree for each batch, in order, of NumPy arrays with as many rows as the batch.
    """
    waiting: collections.deque[tuple[int, Any]] = collections.deque()
    for batch in batches:
        rows = np.minimum(np.arange(batch_size), len(batch[0]) - 1)
        full = batch if len(batch[0]) == batch_size else [array[rows] for array in batch]
        waiting.append((len(batch[0]), function(*full)))
        if len(waiting) == _IN_FLIGHT:
            yield _fetched(*waiting.popleft())
    while waiting:
        yield _fetched(*waiting.popleft())


def _fetched(length: int, result: Any) -> Any:
    return jax.tree.map(lambda array: array[:length], jax.device_get(result))


def images_at_once(encoder: Encoder, *, size: tuple[int, int], batch_size: int) -> int:
    """How many images of this size take the attention memory of `batch_size` images of the training size.

    The memory of attention grows with the square of the number of tokens: at 480 × 832 it is 63 times that of 224 × 224.
    Of images smaller than the training size, `batch_size` are taken. Of images of more than 1,024 tokens, a CPU gets so few
    that a head's attention takes 64 MiB at most: more at once are no faster there. The result is a multiple of the number of
    devices.

    Args:
        encoder: whose training size counts.
        size: height and width in pixels.
        batch_size: images of the training size.
    """
    devices = jax.local_device_count()
    share = min(1.0, (encoder.image_size**2 / (size[0] * size[1])) ** 2)
    most, tokens = int(batch_size * share), size[0] * size[1] // encoder.patch_size**2
    if tokens > _MANY_TOKENS and jax.default_backend() == "cpu":
        most = min(most, _HOST_SCORES // tokens**2)
    return max(1, most // devices) * devices
