"""Mean-shift clusters of one image's tokens: which tokens move to a common mode (paper, Sec. 3 and Appendix A)."""

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.objective import mean_shift
from flsl_jax.typing import Array, Bool, Float, Int


def mode_clusters(
    tokens: Float[np.ndarray, "h w D"] | Float[Array, "h w D"], *, inv_temp: float, similarity: float
) -> Int[np.ndarray, "h w"]:
    """Clusters of tokens that share a mode.

    Tokens are l2-normalised. One mean-shift step at τ = `inv_temp` · √D, as in the objective, gives each token its mode
    (Eq. 4). Two tokens whose modes have a cosine of at least `similarity` are in one cluster, and so are all tokens that a
    chain of such pairs connects. Where tokens lie in the image does not matter; see `connected_regions` for that.

    Args:
        tokens: of one image. Compiled once for each shape.
        inv_temp: a factor of the tokens' cosines, beside √D; the larger, the smaller the clusters.
        similarity: smallest cosine of the modes of a pair, from -1 to 1; the larger, the smaller the clusters.

    Returns:
        int32 numbers of the clusters, 0 for the largest; of equally large ones the first in reading order comes first.
    """
    rows = jnp.asarray(tokens).reshape(-1, tokens.shape[-1])
    linked = np.asarray(_linked(rows, inv_temp * rows.shape[-1] ** 0.5, similarity))
    return _largest_first(_components(linked)).reshape(tokens.shape[:2])


def connected_regions(clusters: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """The connected parts of all clusters.

    Returns:
        int32 numbers of the regions, in the order in which `mode_clusters` numbers clusters.
    """
    regions = np.zeros(clusters.shape, np.int32)
    count = 0
    for number in np.unique(clusters):
        parts, found = connected_parts(clusters == number)
        regions[parts > 0] = parts[parts > 0] + count
        count += found
    return _largest_first(regions.reshape(-1)).reshape(clusters.shape)


def connected_parts(mask: Bool[np.ndarray, "h w"]) -> tuple[Int[np.ndarray, "h w"], int]:
    """The parts of a mask that are connected over edges, not over corners.

    Returns:
        int32 numbers of the parts from 1, in reading order, 0 outside the mask; and how many parts there are.
    """
    from scipy import ndimage

    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    return parts, int(parts.max(initial=0))


@jax.jit
def _linked(tokens: Float[Array, "N D"], inv_temp: Array | float, similarity: Array | float) -> Bool[Array, "N N"]:
    modes = unit_vectors(mean_shift(unit_vectors(tokens), unit_vectors(tokens), inv_temp=inv_temp))
    return jnp.matmul(modes, modes.T, precision="highest") >= similarity


def _components(linked: Bool[np.ndarray, "N N"]) -> Int[np.ndarray, " N"]:
    """For each node, the smallest node that a chain of links connects it to.

    Each row is read once. On a matrix as dense as these it takes a fraction of the time of scipy's function, which makes
    the matrix sparse first.
    """
    names = np.full(len(linked), -1)
    for start in range(len(linked)):
        if names[start] < 0:
            names[start], reached = start, np.array([start])
            while reached.size:
                reached = np.flatnonzero(linked[reached].any(axis=0) & (names < 0))
                names[reached] = start
    return names


def _largest_first(names: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """The same groups under new names: 0, 1, … by falling size, and of equal sizes by their first member."""
    _, first, inverse, counts = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), np.int32)
    rank[np.lexsort((first, -counts))] = np.arange(len(first))
    return rank[inverse]
