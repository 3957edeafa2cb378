"""Pictures that a run leaves: images side by side, and below each the same of every network."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.pictures.clusters import overlaid_clusters
from flsl_jax.pictures.images import as_colours
from flsl_jax.pictures.kinds import PictureSettings
from flsl_jax.pictures.projection import pca_rgb
from flsl_jax.pictures.sheet import agg_pyplot, save_figure
from flsl_jax.typing import Float, UInt8


def save_features(
    images: UInt8[np.ndarray, "I H W C"], tokens: Mapping[str, Float[np.ndarray, "I h w D"]], path: Path
) -> None:
    """Writes a PNG with the images in the first row, and below them a row of `pca_rgb` for each set of tokens, by name."""
    rows = {name: pca_rgb(values) for name, values in tokens.items()}
    _save(images, rows, path, title="tokens by their first three principal components, one basis in a row")


def save_clusters(
    images: UInt8[np.ndarray, "I H W C"], tokens: Mapping[str, Float[np.ndarray, "I h w D"]], path: Path
) -> None:
    """The same with each image's mean-shift clusters over it, as `flsl_jax.visualize` draws them by default."""
    settings = PictureSettings()

    def overlaid(image: UInt8[np.ndarray, "H W 3"], grid: Float[np.ndarray, "h w D"]) -> UInt8[np.ndarray, "H W 3"]:
        clusters = mode_clusters(grid, inv_temp=settings.inv_temp, similarity=settings.mode_similarity)
        return overlaid_clusters(image, clusters, grid).colours

    rows = {
        name: np.stack([overlaid(*pair) for pair in zip(as_colours(images), grids)]) for name, grids in tokens.items()
    }
    title = "mean-shift clusters of each image's tokens; pale: smaller ones, each in the colour of the most similar one"
    _save(images, rows, path, title=title)


def _save(images: UInt8[np.ndarray, "I H W C"], rows: Mapping[str, np.ndarray], path: Path, *, title: str) -> None:
    plt = agg_pyplot()
    rows = {"image": as_colours(images)} | dict(rows)
    figure, axes = plt.subplots(
        len(rows), len(images), figsize=(1.5 * len(images), 1.6 * len(rows)), squeeze=False, layout="constrained"
    )
    for line, (name, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(name, fontsize=10)
        for axis, picture in zip(line, pictures):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)
