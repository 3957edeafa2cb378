"""What the tokens of an image tell apart, as colours: the first three principal components as red, green and blue."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.typing import Float, UInt8


def pca_rgb(tokens: Float[np.ndarray, "I h w D"]) -> Float[np.ndarray, "I h w 3"]:
    """The tokens' coordinates along their first three principal components, in one basis for all images.

    Signs are fixed so that equal tokens give equal colours: of each component the channel with the largest weight counts
    positive. Every component is stretched from its 1st to its 99th percentile over all images.

    Args:
        tokens: of I images, any float dtype; D is 3 or more.

    Returns:
        colours from 0 to 1.
    """
    rows = np.asarray(tokens, np.float64).reshape(-1, tokens.shape[-1])
    rows = rows - rows.mean(axis=0)
    _, directions = np.linalg.eigh(rows.T @ rows)
    basis = directions[:, :-4:-1]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(3)])
    coordinates = rows @ basis
    low, high = np.percentile(coordinates, (1, 99), axis=0)
    return np.clip((coordinates - low) / np.maximum(high - low, 1e-12), 0, 1).reshape(*tokens.shape[:-1], 3)


def save_features(
    images: UInt8[np.ndarray, "I H W 3"], tokens: Mapping[str, Float[np.ndarray, "I h w D"]], path: Path
) -> None:
    """Writes a PNG: the images in the first row, below them a row of `pca_rgb` for each set of tokens, by its name."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = {"image": np.asarray(images)} | {name: pca_rgb(values) for name, values in tokens.items()}
    figure, axes = plt.subplots(
        len(rows), len(images), figsize=(1.5 * len(images), 1.6 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (name, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(name, fontsize=10)
        for axis, picture in zip(line, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    figure.suptitle("tokens by their first three principal components, one basis in a row", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)
