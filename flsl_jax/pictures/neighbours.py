"""The patches in a set of images that are nearest to one patch."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float, UInt8

# How many patches are shown around a neighbour on each side.
_CONTEXT = 2
FRAME = "#D55E00"


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A patch: the index of its image, its row and column, and the cosine of its token with the query's."""

    image: int
    row: int
    column: int
    cosine: float


def nearest_patches(
    token: Float[np.ndarray, " D"],
    grids: Sequence[Float[np.ndarray, "_ _ D"]],
    *,
    k: int,
    skip: Sequence[bool] | None = None,
) -> list[Neighbour]:
    """The nearest patch of each of the k nearest images, by falling cosine.

    There is one patch for each image because adjacent patches are alike: k patches of one image would show less.

    Args:
        token: of the query patch.
        grids: the tokens of every image.
        k: neighbours; fewer if there are fewer images.
        skip: whether to leave out each image, such as the query's own.
    """
    query = unit_vectors(token)
    found = []
    for number, grid in enumerate(grids):
        if skip is not None and skip[number]:
            continue
        cosine = unit_vectors(grid) @ query
        row, column = np.unravel_index(cosine.argmax(), cosine.shape)
        found.append(Neighbour(number, int(row), int(column), float(cosine[row, column])))
    return sorted(found, key=lambda neighbour: -neighbour.cosine)[:k]


def framed_patch(
    pixels: UInt8[np.ndarray, "H W 3"], *, row: int, column: int, patch_size: int
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The patch in a frame, with the pixels of two patches around it; near a border the cutout is moved into the image."""
    side = (2 * _CONTEXT + 1) * patch_size
    height, width = pixels.shape[:2]
    top = int(np.clip((row - _CONTEXT) * patch_size, 0, max(0, height - side)))
    left = int(np.clip((column - _CONTEXT) * patch_size, 0, max(0, width - side)))
    framed = pixels[top : top + side, left : left + side].copy()
    y, x = row * patch_size - top, column * patch_size - left
    inside = np.zeros(framed.shape[:2], bool)
    inside[y : y + patch_size, x : x + patch_size] = True
    inside[y + 1 : y + patch_size - 1, x + 1 : x + patch_size - 1] = False
    framed[inside] = bytearray.fromhex(FRAME[1:])
    return framed
