"""Mean-shift clusters as colours: a few groups of them, so that no part of the image is without a colour."""

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.pictures.panels import OKABE_ITO, ColourPanel
from flsl_jax.typing import Float, Int, UInt8

# The weight of the colour over the grey image: of a group's largest cluster, and of those that were merged with it.
_FULL, _PALE = 0.6, 0.3


def merged_clusters(
    clusters: Int[np.ndarray, "h w"], tokens: Float[np.ndarray, "h w D"], *, most: int
) -> Int[np.ndarray, "h w"]:
    """At most so many groups of clusters: again and again the smallest one joins the one whose mean is most alike.

    Args:
        clusters: numbers from 0, the largest cluster first.
        tokens: of the same image; means are those of l2-normalised tokens, and alike by their cosine.
        most: groups that are left, at least 1.

    Returns:
        int32 numbers of the groups, 0 for the largest.
    """
    names = clusters.reshape(-1)
    rows = unit_vectors(tokens).reshape(len(names), -1)
    count = int(names.max()) + 1
    sums = np.zeros((count, rows.shape[1]), np.float64)
    np.add.at(sums, names, rows)
    sizes = np.bincount(names, minlength=count).astype(np.float64)
    group, means = np.arange(count), unit_vectors(sums)
    for _ in range(count - most):
        # The last of the smallest: of equally large ones the first in reading order stays.
        small = count - 1 - int(np.argmin(sizes[::-1]))
        cosines = means @ means[small]
        cosines[np.isinf(sizes)] = -np.inf
        cosines[small] = -np.inf
        near = int(np.argmax(cosines))
        sums[near] += sums[small]
        means[near] = unit_vectors(sums[near])
        sizes[near], sizes[small] = sizes[near] + sizes[small], np.inf
        group[group == small] = near
    left, inverse = np.unique(group, return_inverse=True)
    order = np.argsort(-sizes[left], kind="stable")
    rank = np.empty(len(left), np.int32)
    rank[order] = np.arange(len(left), dtype=np.int32)
    return rank[inverse][names].reshape(clusters.shape)


def overlaid_clusters(
    pixels: UInt8[np.ndarray, "H W 3"], clusters: Int[np.ndarray, "h w"], tokens: Float[np.ndarray, "h w D"]
) -> ColourPanel:
    """The image under the colours of its clusters, with white lines between them.

    There are as many groups as colours. The largest cluster of a group has the full colour; those that were merged with it,
    by `merged_clusters`, have a pale one.

    Args:
        pixels: of the image; its sides are multiples of those of the grid of clusters.
        clusters: numbers from 0, the largest cluster first.
        tokens: of the image.
    """
    groups, count = merged_clusters(clusters, tokens, most=len(OKABE_ITO)), int(clusters.max()) + 1
    # Clusters are numbered by size, so the smallest number in a group is its largest cluster.
    cores = [clusters[groups == number].min() for number in range(groups.max() + 1)]
    full = np.isin(clusters, cores)
    palette = np.array([[int(color[start : start + 2], 16) for start in (1, 3, 5)] for color in OKABE_ITO])
    repeats = pixels.shape[0] // clusters.shape[0]
    weight = _repeated(np.where(full, _FULL, _PALE), repeats)[..., None]
    blended = np.round(
        (1 - weight) * pixels.mean(axis=-1, keepdims=True) + weight * palette[_repeated(groups, repeats)]
    )
    blended[_edges(_repeated(groups, repeats))] = 255
    shares = np.bincount(groups.reshape(-1)) / groups.size
    legend = tuple((color, _percent(share)) for color, share in zip(OKABE_ITO, shares))
    note = f"{count} clusters" + (f", {_percent(1 - full.mean())} pale" if not full.all() else "")
    return ColourPanel(blended.astype(np.uint8), legend, note=note if count > 1 else "1 cluster")


def _percent(share: float) -> str:
    """In whole per cent; what is neither nothing nor all is not rounded to it."""
    if share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _repeated(grid: np.ndarray, repeats: int) -> np.ndarray:
    return grid.repeat(repeats, axis=0).repeat(repeats, axis=1)


def _edges(numbers: Int[np.ndarray, "H W"]) -> np.ndarray:
    edge = np.zeros(numbers.shape, bool)
    edge[1:] |= numbers[1:] != numbers[:-1]
    edge[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    return edge
