"""One geometry for an image and its mask: which part of the image a network sees, at a size that the patch divides."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.images.resize import resize

# ADE20K's protocol for whole images, 2048×512: the ratio is kept, and the long side is at most four times the short one.
_LONGEST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFit:
    """Resizes an image (Pillow's antialiased bicubic filter) and its mask (nearest pixel) in the same way.

    `how` = "square": the whole image, resized to `size` × `size` pixels whatever its ratio. "crop": the short side resized to
    `size`, then the central square. "ratio": the whole image with its ratio kept: the short side becomes `size`, or less if
    the long side would exceed four times that; both are rounded down to multiples of `patch_size`, to at least one patch.
    """

    how: Literal["square", "crop", "ratio"]
    size: int
    patch_size: int

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        """The resized image."""
        if self.how == "crop":
            return ResizeCrop(self.size).image(image)
        width, height = self._resized(*image.shape[:2])
        return resize(image, height=height, width=width)

    def mask(
        self, mask: Int32[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]
    ) -> Int32[np.ndarray, "h w"] | Float32[np.ndarray, "h w"]:
        """The resized mask: each pixel takes the label, or the depth, of the original pixel under its centre."""
        if self.how == "crop":
            return ResizeCrop(self.size).mask(mask)
        return np.asarray(Image.fromarray(mask).resize(self._resized(*mask.shape), Image.Resampling.NEAREST))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Width and height of the resized whole image."""
        if self.how == "square":
            return self.size, self.size
        scale = min(self.size / min(height, width), _LONGEST * self.size / max(height, width))
        new_width, new_height = (
            max(1, int(round(side * scale, 6) // self.patch_size)) * self.patch_size for side in (width, height)
        )
        return new_width, new_height


def class_shares(mask: Int32[np.ndarray, "H W"], *, patch_size: int, num_classes: int) -> Float32[np.ndarray, "h w K"]:
    """The share of each class in the pixels of each patch.

    Args:
        mask: labels, -1 for ignored pixels; the patch divides its sides.
        patch_size: in pixels.
        num_classes: K.

    Returns:
        shares from 0 to 1; those of a patch sum to 1, or to less if some of its pixels are ignored.
    """
    height, width = (side // patch_size for side in mask.shape)
    patch = np.arange(height)[:, None] * width + np.arange(width)
    patches = np.repeat(np.repeat(patch, patch_size, axis=0), patch_size, axis=1)
    counts = np.bincount(
        (patches * (num_classes + 1) + mask + 1).reshape(-1), minlength=height * width * (num_classes + 1)
    )
    counts = counts.reshape(height, width, num_classes + 1)[..., 1:]
    return (counts / np.float32(patch_size**2)).astype(np.float32)
