"""What the tokens of one image say of each other, as maps over its patches."""

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float


def similarity_map(tokens: Float[np.ndarray, "h w D"], *, row: int, column: int) -> Float[np.ndarray, "h w"]:
    """Cosine of every token with the one of a patch, from -1 to 1."""
    unit = unit_vectors(tokens)
    return unit @ unit[row, column]


def aggregated_similarity(tokens: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w"]:
    """The aggregated similarity score (ASS; paper, Sec. 5.5, Figs. 3, 5, 6): 1 at its maximum, bright where many are alike.

    It is the sum over tokens of each token's cosine-similarity map, divided by its maximum. That sum is each unit token
    times the sum of all of them, so N tokens cost N · D products and no N × N matrix.
    """
    unit = unit_vectors(tokens).astype(np.float64)
    score = unit @ unit.sum(axis=(0, 1))
    return (score / max(score.max(), np.finfo(np.float32).tiny)).astype(np.float32)


def attention_maps(
    query: Float[np.ndarray, "M heads d"],
    key: Float[np.ndarray, "M heads d"],
    *,
    row: int,
    column: int,
    grid: tuple[int, int],
) -> Float[np.ndarray, "heads h w"]:
    """How much one patch attends to each patch, by head: the patch's row of softmax(q kᵀ / √d).

    Args:
        query, key: of one block and one image; tokens before the last h·w are prefix tokens, which take part in the
            softmax and are then left out, so a map sums to 1 less their share.
        row, column: of the patch that asks.
        grid: (h, w).
    """
    height, width = grid
    prefix = len(query) - height * width
    asked = query[prefix + row * width + column].astype(np.float64)
    logits = np.einsum("hd,mhd->hm", asked, key.astype(np.float64)) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights[:, prefix:].reshape(-1, height, width).astype(np.float32)
