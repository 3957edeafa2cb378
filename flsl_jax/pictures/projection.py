"""Tokens as colours: their first three principal components as red, green and blue."""

from collections.abc import Sequence

import numpy as np

from flsl_jax.typing import Bool, Float


def pca_rgb(tokens: Float[np.ndarray, "I h w D"]) -> Float[np.ndarray, "I h w 3"]:
    """The tokens' coordinates along their first three principal components, in one basis for all images.

    Signs are fixed, so that equal tokens always have equal colours: in each component the channel with the largest weight is
    positive. Each component is stretched from its 1st to its 99th percentile over all images.

    Args:
        tokens: of I images, any float dtype; D is 3 or more.

    Returns:
        Colours from 0 to 1.
    """
    coordinates = principal_coordinates(tokens.reshape(-1, tokens.shape[-1]))
    return stretched(coordinates).reshape(*tokens.shape[:-1], 3)


def pca_rgb_of_set(
    grids: Sequence[Float[np.ndarray, "_ _ D"]], *, drop_background: bool = False
) -> list[Float[np.ndarray, "_ _ 3"]]:
    """The same for images of different sizes, in one basis for all of them.

    Args:
        grids: the tokens of each image.
        drop_background: show the foreground alone, as DINOv2 does. Tokens are split at Otsu's threshold of their first
            component; the side of which a larger share lies at the images' borders is the background. It is black, and the
            basis is that of the other tokens.
    """
    rows = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
    colours = np.zeros((len(rows), 3))
    shown = _foreground(rows, grids) if drop_background else np.ones(len(rows), bool)
    colours[shown] = stretched(principal_coordinates(rows[shown]))
    parts = np.split(colours, np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])[:-1])
    return [part.reshape(*grid.shape[:2], 3) for part, grid in zip(parts, grids)]


def principal_coordinates(rows: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N 3"]:
    """Coordinates along the first three principal components; in each the channel with the largest weight is positive."""
    rows = np.asarray(rows, np.float64)
    rows = rows - rows.mean(axis=0)
    _, directions = np.linalg.eigh(rows.T @ rows)
    basis = directions[:, :-4:-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(3)])
    return rows @ basis


def stretched(coordinates: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Each column stretched so that its 1st percentile is 0 and its 99th is 1, and cut there."""
    low, high = np.percentile(coordinates, (1, 99), axis=0)
    return np.clip((coordinates - low) / np.maximum(high - low, 1e-12), 0, 1)


def otsu_threshold(values: Float[np.ndarray, " N"]) -> float:
    """Otsu's threshold: the split in two with the largest variance between the parts, half-way between two values."""
    ordered = np.sort(np.asarray(values, np.float64))
    below = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    means_apart = sums[:-1] / below - (sums[-1] - sums[:-1]) / (len(ordered) - below)
    best = int(np.argmax(below * (len(ordered) - below) * means_apart**2))
    return float((ordered[best] + ordered[best + 1]) / 2)


def _foreground(rows: Float[np.ndarray, "N D"], grids: Sequence[Float[np.ndarray, "_ _ D"]]) -> Bool[np.ndarray, " N"]:
    """The side of the first component's threshold of which a smaller share lies at a border; all tokens if it has fewer
    than three."""
    first = principal_coordinates(rows)[:, 0]
    above = first > otsu_threshold(first)
    border = []
    for grid in grids:
        edge = np.ones(grid.shape[:2], bool)
        edge[1:-1, 1:-1] = False
        border.append(edge.reshape(-1))
    at_border = np.concatenate(border)
    shares = [at_border[side].mean() if side.any() else 1.0 for side in (above, ~above)]
    shown = above if shares[0] <= shares[1] else ~above
    return shown if shown.sum() >= 3 else np.ones_like(shown)
