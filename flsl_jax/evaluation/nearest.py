"""Exact nearest neighbours by cosine: a bank on the accelerator, searched in blocks with a running top-k."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.typing import Array, Float, Int

# Rows of queries and of the bank that are compared at a time; bounds memory, changes no result.
QUERY_BLOCK, BANK_BLOCK = 1024, 16384


class Bank:
    """Features to search among.

    Args:
        features: l2-normalised.
        block: rows compared at a time.
    """

    def __init__(self, features: Float[np.ndarray, "M D"], *, block: int = BANK_BLOCK) -> None:
        self._length = len(features)
        block = min(block, self._length)
        blocks = -(-self._length // block)
        padded = np.pad(features, ((0, blocks * block - self._length), (0, 0)))
        numbers = np.arange(blocks * block, dtype=np.int32)
        numbers[self._length :] = -1
        self._blocks = jax.device_put((padded.reshape(blocks, block, -1), numbers.reshape(blocks, block)))

    def nearest(
        self, queries: Float[np.ndarray, "Q D"], *, k: int, block: int = QUERY_BLOCK
    ) -> tuple[Float[Array, "Q n"], Int[Array, "Q n"]]:
        """Cosines and row numbers of the k nearest of each query, the nearest first, the first in the bank of equals.

        Args:
            queries: l2-normalised.
            k: neighbours; n is the smaller of k and M.
            block: queries compared at a time.
        """
        block, k = min(block, len(queries)), min(k, self._length)
        found = []
        for start in range(0, len(queries), block):
            rows = np.minimum(np.arange(start, start + block), len(queries) - 1)
            found.append(search_blocks(queries[rows], *self._blocks, k=k))
        cosines, indices = (jnp.concatenate(parts)[: len(queries)] for parts in zip(*found))
        return cosines, indices


@functools.partial(jax.jit, static_argnames="k")
def search_blocks(
    queries: Float[Array, "q D"] | Float[np.ndarray, "q D"],
    bank: Float[Array, "c m D"],
    names: Int[Array, "c m"],
    *,
    k: int,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Cosines and names of the k nearest rows of a bank, by falling cosine: block after block with a running top-k.

    Args:
        queries: l2-normalised, in the bank's dtype.
        bank: c blocks of m l2-normalised rows, float32 or bfloat16; sums are float32.
        names: of the rows: numbers, or labels; below 0 for padding, which is never near. A k beyond the other rows is
            filled up with cosines of -inf.
        k: neighbours.
    """

    def merge(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        features, block_names = block
        cosine = jnp.matmul(queries, features.T, precision="highest", preferred_element_type=jnp.float32)
        cosine = jnp.where(block_names >= 0, cosine, -jnp.inf)
        near, places = jax.lax.top_k(cosine, min(k, len(block_names)))
        scores = jnp.concatenate([best[0], near], axis=1)
        found = jnp.concatenate([best[1], block_names[places]], axis=1)
        top, places = jax.lax.top_k(scores, k)
        return (top, jnp.take_along_axis(found, places, axis=1)), None

    rows = queries.shape[0]
    start = (jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1, names.dtype))
    best, _ = jax.lax.scan(merge, start, (bank, names))
    return best
