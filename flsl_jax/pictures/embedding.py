"""The tokens of one image as points in the plane (t-SNE), and the colours of its patches."""

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float, Int, UInt8

# Larger grids are thinned out evenly: t-SNE takes minutes for more.
_MAX_POINTS = 1024


def tsne_points(
    tokens: Float[np.ndarray, "h w D"], *, seed: int = 0
) -> tuple[Float[np.ndarray, "N 2"], Int[np.ndarray, " N"]]:
    """scikit-learn's t-SNE of unit tokens by their cosine distance.

    Args:
        tokens: of one image, at least 4.
        seed: of the start, which principal components give otherwise.

    Returns:
        Points, and the flat numbers of the patches that they stand for: all of them, or about 1024 spread evenly.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = unit_vectors(tokens).reshape(-1, tokens.shape[-1])
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), _MAX_POINTS)).astype(np.int64)
    rows = rows[chosen]
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # Identical tokens leave the principal start without an extent, which scikit-learn divides by.
    start = "pca" if np.ptp(rows, axis=0).max() > 1e-6 else "random"
    # Its threads wait for each other in a spin: with other work on the machine, more of them take ten times longer.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, init=start, random_state=seed, max_iter=500).fit_transform(rows)
    return points, chosen


def patch_colours(pixels: UInt8[np.ndarray, "H W 3"], *, patch_size: int) -> Float[np.ndarray, "N 3"]:
    """Mean colour of every patch, row by row, from 0 to 1."""
    height, width = (side // patch_size for side in pixels.shape[:2])
    patches = pixels.reshape(height, patch_size, width, patch_size, 3)
    return patches.mean(axis=(1, 3)).reshape(-1, 3) / 255
