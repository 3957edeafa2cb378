"""The tokens of one image as points in the plane (t-SNE), and the colours of its patches."""

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float, Int, UInt8

# Of larger grids, patches at even distances are drawn: t-SNE would take minutes for more.
_MAX_POINTS = 1024


def tsne_points(
    tokens: Float[np.ndarray, "h w D"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "N 2"], Int[np.ndarray, " N"]]:
    """scikit-learn's t-SNE of l2-normalised tokens.

    Args:
        tokens: of one image, at least 4.
        seed: of t-SNE, whose start is random only where all tokens are equal.

    Returns:
        Points, and the flat index of the patch of each: all patches, or 1024 at even distances if there are more.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = unit_vectors(tokens).reshape(-1, tokens.shape[-1])
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _MAX_POINTS)).astype(np.int64)
    rows = rows[chosen]
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # scikit-learn divides the start by its extent, and equal tokens have principal coordinates without any.
    start = "pca" if np.ptp(rows, axis=0).max() > 1e-6 else "random"
    # Its threads wait in busy loops: where other programs use the machine too, several threads take ten times as long.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, init=start, random_state=seed, max_iter=500).fit_transform(rows)
    return points, chosen


def patch_colours(pixels: UInt8[np.ndarray, "H W 3"], *, patch_size: int) -> Float[np.ndarray, "N 3"]:
    """The mean colour of each patch, row by row, from 0 to 1."""
    height, width = (side // patch_size for side in pixels.shape[:2])
    patches = pixels.reshape(height, patch_size, width, patch_size, 3)
    return patches.mean(axis=(1, 3)).reshape(-1, 3) / 255
