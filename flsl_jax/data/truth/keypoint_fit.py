"""One geometry for an image and its key points: where a pixel of the image lies among the patches that a network sees."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

from flsl_jax.data.images.resize import resize


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeypointFit:
    """Brings an image to a square of `size` × `size` pixels (Pillow's antialiased bicubic filter).

    `how` = "square": the whole image, whatever its ratio. "pad": the longer side becomes `size`, and the image lies in the
    middle of a black square. Places are counted so that whole numbers are middles, of pixels as of patches.
    """

    how: Literal["square", "pad"]
    size: int
    patch_size: int

    @property
    def grid(self) -> int:
        """Patches in a row and in a column."""
        return self.size // self.patch_size

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "s s C"]:
        """The square that the network sees."""
        (width, height), (left, top) = self._placed(image.shape[1], image.shape[0])
        square = np.zeros((self.size, self.size, image.shape[-1]), np.uint8)
        square[top : top + height, left : left + width] = resize(image, height=height, width=width)
        return square

    def to_patches(self, points: Float[np.ndarray, "P 2"], *, width: int, height: int) -> Float[np.ndarray, "P 2"]:
        """(column, row) in patches of points (x, y) in pixels of an image of this size."""
        resized, corner = self._placed(width, height)
        return ((points + 0.5) * np.divide(resized, (width, height)) + corner) / self.patch_size - 0.5

    def to_pixels(self, places: Float[np.ndarray, "P 2"], *, width: int, height: int) -> Float[np.ndarray, "P 2"]:
        """The inverse of `to_patches`."""
        resized, corner = self._placed(width, height)
        return ((places + 0.5) * self.patch_size - corner) * np.divide((width, height), resized) - 0.5

    def _placed(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height of the resized image, and its left upper corner in the square."""
        if self.how == "square":
            return (self.size, self.size), (0, 0)
        longer = max(width, height)
        size = max(1, round(self.size * width / longer)), max(1, round(self.size * height / longer))
        return size, ((self.size - size[0]) // 2, (self.size - size[1]) // 2)
