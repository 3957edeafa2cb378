"""Exact nearest neighbours by cosine: a bank on the accelerator, searched in blocks with a running top-k."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.typing import Array, Float, Int

# Rows of queries and of the bank that are compared at a time; bounds memory, changes no result.
_QUERY_BLOCK, _BANK_BLOCK = 1024, 16384


class Bank:
    """Features to search among.

    Args:
        features: l2-normalised.
        block: rows compared at a time.
    """

    def __init__(self, features: Float[np.ndarray, "M D"], *, block: int = _BANK_BLOCK) -> None:
        self._length = len(features)
        block = min(block, self._length)
        blocks = -(-self._length // block)
        padded = np.pad(features, ((0, blocks * block - self._length), (0, 0)))
        self._blocks = jax.device_put(padded.reshape(blocks, block, -1))

    def nearest(
        self, queries: Float[np.ndarray, "Q D"], *, k: int, block: int = _QUERY_BLOCK
    ) -> tuple[Float[Array, "Q n"], Int[Array, "Q n"]]:
        """Cosines and row numbers of the k nearest of each query, the nearest first, the first in the bank of equals.

        Args:
            queries: l2-normalised.
            k: neighbours; n is the smaller of k and M.
            block: queries compared at a time.
        """
        block, search = min(block, len(queries)), functools.partial(_search, k=min(k, self._length))
        found = []
        for start in range(0, len(queries), block):
            rows = np.minimum(np.arange(start, start + block), len(queries) - 1)
            found.append(search(queries[rows], self._blocks, length=self._length))
        cosines, indices = (jnp.concatenate(parts)[: len(queries)] for parts in zip(*found))
        return cosines, indices


@functools.partial(jax.jit, static_argnames=("k", "length"))
def _search(
    queries: Float[Array, "q D"], bank: Float[Array, "c m D"], *, k: int, length: int
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """For one block of queries, over the bank's c blocks; rows from `length` on are padding."""
    blocks, rows, _ = bank.shape

    def merge(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        features, numbers = block
        cosine = jnp.where(numbers < length, jnp.matmul(queries, features.T, precision="highest"), -jnp.inf)
        cosines = jnp.concatenate([best[0], cosine], axis=1)
        names = jnp.concatenate([best[1], jnp.broadcast_to(numbers, cosine.shape)], axis=1)
        top, places = jax.lax.top_k(cosines, k)
        return (top, jnp.take_along_axis(names, places, axis=1)), None

    start = (jnp.full((queries.shape[0], k), -jnp.inf), jnp.zeros((queries.shape[0], k), jnp.int32))
    numbers = jnp.arange(blocks * rows, dtype=jnp.int32).reshape(blocks, rows)
    best, _ = jax.lax.scan(merge, start, (bank, numbers))
    return best
