"""Images of any size brought to one that the patch divides, and where each patch then lies in the original image."""

import dataclasses

import numpy as np

from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.images.resize import resize
from flsl_jax.errors import UserError
from flsl_jax.typing import Float, UInt8

# A longer image is made smaller than asked for, because the memory of attention grows with the square of its patches.
_LONGEST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How images are resized, for a patch size and a length of the shorter side, both in pixels.

    With `crop`, the shorter side becomes `size` and the central square is cut out, as in the evaluations. Without, the whole
    image is kept: the shorter side becomes `size`, but no side longer than four times that, and the caller pads the bottom and
    the right up to `padded_size`. `size=0` leaves whole images as large as they are. The filter is Pillow's antialiased
    bicubic one.

    Raises:
        UserError: `size` is below 0, or a crop whose side is not a multiple of the patch.
    """

    patch_size: int
    size: int
    crop: bool = False

    def __post_init__(self) -> None:
        if self.size < 0:
            raise UserError(
                f"size is {self.size}; expected the shorter side in pixels, or 0 to leave images as they are"
            )
        if self.crop and (self.size < self.patch_size or self.size % self.patch_size):
            raise UserError(
                f"size is {self.size}; crops need a multiple of the model's patch of {self.patch_size} px, such as "
                f"{max(1, round(self.size / self.patch_size)) * self.patch_size}"
            )

    def image(self, pixels: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "y x C"]:
        """The resized image, not yet padded."""
        if self.crop:
            return ResizeCrop(self.size).image(pixels)
        height, width = self.inner_size(*pixels.shape[:2])
        if (height, width) == pixels.shape[:2]:
            return pixels
        return resize(pixels, height=height, width=width)

    def inner_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of `image(pixels)` for an original of this height and width, in pixels."""
        if self.crop:
            return self.size, self.size
        if not self.size:
            return height, width
        scale = min(self.size / min(height, width), _LONGEST * self.size / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that the model gets: the next multiples of the patch."""
        inner = self.inner_size(height, width)
        return inner[0] + -inner[0] % self.patch_size, inner[1] + -inner[1] % self.patch_size

    def patch_boxes(self, height: int, width: int) -> Float[np.ndarray, "h w 4"]:
        """Where each patch lies in an original of this height and width, as float32 (left, top, right, bottom) in its pixels.

        What lies in the padding is cut off, so that every box is inside the image; none is empty.
        """
        inner, padded = self.inner_size(height, width), self.padded_size(height, width)
        left, right = self._edges(width, inner[1], padded[1], other=height)
        top, bottom = self._edges(height, inner[0], padded[0], other=width)
        grid = (len(top), len(left))
        columns = (np.broadcast_to(left, grid), np.broadcast_to(right, grid))
        rows = (np.broadcast_to(top[:, None], grid), np.broadcast_to(bottom[:, None], grid))
        return np.stack([columns[0], rows[0], columns[1], rows[1]], axis=-1).astype(np.float32)

    def _edges(self, length: int, inner: int, padded: int, *, other: int) -> tuple[np.ndarray, np.ndarray]:
        """First and last edge of each patch along a side of so many pixels of an image whose other side is `other`."""
        starts = np.arange(0, padded, self.patch_size, dtype=np.float64)
        ends = np.minimum(starts + self.patch_size, inner)
        if not self.crop:
            return starts * length / inner, ends * length / inner
        resized = round(length * self.size / min(length, other))
        offset = (resized - self.size) // 2
        return (starts + offset) * length / resized, (ends + offset) * length / resized
