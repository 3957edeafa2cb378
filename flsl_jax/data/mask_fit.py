"""One geometry for an image and its mask: what of the image a network sees, at a size that its patch divides."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from flsl_jax.data.boxes import ResizeCrop

# ADE20K's whole-image protocol: 2048×512 keeps the ratio and bounds the long side by four times the short one.
_LONGEST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFit:
    """Moves an image (Pillow's bicubic, antialiased) and its mask (nearest pixel) alike.

    `how` "square": the whole image, resized to `size` × `size` whatever its ratio. "crop": the short side resized to
    `size`, then the central square. "ratio": the whole image, its ratio kept: the short side at `size`, or less where the
    long one would exceed four times that; both floored to multiples of `patch_size`, at least one patch.
    """

    how: Literal["square", "crop", "ratio"]
    size: int
    patch_size: int

    def image(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The moved image."""
        if self.how == "crop":
            return ResizeCrop(self.size).image(image)
        width, height = self._resized(*image.shape[:2])
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

    def mask(self, mask: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "h w"]:
        """The moved mask: of every pixel of the moved image, the label of the pixel under its centre."""
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
    """Of each patch, the share of its pixels that every class has; they sum to less than 1 where pixels are ignored.

    Args:
        mask: labels, -1 for ignored ones; the patch divides its sides.
        patch_size: in pixels.
        num_classes: K.
    """
    height, width = (side // patch_size for side in mask.shape)
    patch = np.arange(height)[:, None] * width + np.arange(width)
    patches = np.repeat(np.repeat(patch, patch_size, axis=0), patch_size, axis=1)
    counts = np.bincount(
        (patches * (num_classes + 1) + mask + 1).reshape(-1), minlength=height * width * (num_classes + 1)
    )
    counts = counts.reshape(height, width, num_classes + 1)[..., 1:]
    return (counts / np.float32(patch_size**2)).astype(np.float32)
