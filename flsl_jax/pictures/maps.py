"""How alike the tokens of one image are, as maps over its patches."""

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float


def similarity_map(tokens: Float[np.ndarray, "h w D"], *, row: int, column: int) -> Float[np.ndarray, "h w"]:
    """The cosine of every token with the token of one patch, from -1 to 1."""
    unit = unit_vectors(tokens)
    return unit @ unit[row, column]


def aggregated_similarity(tokens: Float[np.ndarray, "h w D"]) -> Float[np.ndarray, "h w"]:
    """The aggregated similarity score (ASS; paper, Sec. 5.5, Figs. 3, 5, 6): large where many tokens are alike, at most 1.

    It is the sum of all tokens' maps of cosines, divided by its maximum. The sum equals the product of each unit token with
    the sum of all unit tokens, so that no N × N matrix is needed.
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
    """How much one patch attends to each patch in each head: the patch's row of softmax(q kᵀ / √d).

    Args:
        query, key: of one block and one image. Tokens before the last h·w are prefix tokens: they take part in the softmax
            and are then left out, so that a map sums to 1 less their share.
        row, column: of the query patch.
        grid: (h, w), in patches.
    """
    height, width = grid
    prefix = len(query) - height * width
    asked = query[prefix + row * width + column].astype(np.float64)
    logits = np.einsum("hd,mhd->hm", asked, key.astype(np.float64)) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights[:, prefix:].reshape(-1, height, width).astype(np.float32)
