"""Resizing images on the host, by Pillow or with its result, whatever the number of channels."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flsl_jax.data.images.levels import STRIP_PIXELS

try:
    import cykooz_resizer
except ImportError:  # there is no build for Linux on ARM; Pillow does the same work and takes several times as long
    cykooz_resizer = None


def resize(image: UInt8[np.ndarray, "H W C"], *, height: int, width: int) -> UInt8[np.ndarray, "h w C"]:
    """Resized by Pillow's antialiased bicubic filter, each channel by itself."""
    return _by_parts(image, lambda part: _by_pillow(part, height=height, width=width))


def resize_square(image: UInt8[np.ndarray, "H W C"], *, size: int) -> UInt8[np.ndarray, "s s C"]:
    """As `resize` to `size` × `size` by Pillow 13, up to rounding, and several times as fast.

    The weights of the vectorised resizer have 16 bits instead of 22: about 3 of 1000 values differ by one grey level, and about
    1 of 100,000 by two. As in Pillow, the columns are resized and rounded first, unless the height shrinks by more than twice
    as many pixels as the width.
    """
    if cykooz_resizer is None:
        return resize(image, height=size, width=size)
    return _by_parts(image, lambda part: _vectorised(part, size=size))


def _by_parts(
    image: UInt8[np.ndarray, "H W C"], function: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "h w C"]:
    """Applies a function to three channels at a time, and to one where three are not left.

    Resizers take a second or fourth channel for transparency, which changes the others.
    """
    channels = image.shape[-1]
    if channels in (1, 3):
        return function(image)
    threes = channels - channels % 3
    starts = [*range(0, threes, 3), *range(threes, channels)]
    parts = [function(image[..., start : start + (3 if start < threes else 1)]) for start in starts]
    return np.concatenate(parts, axis=-1)


def _by_pillow(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    grey = image.shape[-1] == 1
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    return resized[..., None] if grey else resized


def _vectorised(image: np.ndarray, *, size: int) -> np.ndarray:
    height, width = image.shape[:2]
    rows_first = height - size > 2 * max(width - size, 0)
    # A pass along one axis treats the lines along it by themselves, so that strips of a large image give the same pixels.
    if rows_first:
        columns = max(1, STRIP_PIXELS // height)
        parts = [_scaled(image[:, left : left + columns], height=size) for left in range(0, width, columns)]
    else:
        rows = max(1, STRIP_PIXELS // width)
        parts = [_scaled(image[top : top + rows], width=size) for top in range(0, height, rows)]
    between = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1 if rows_first else 0)
    return _scaled(between, height=size, width=size)


def _scaled(image: np.ndarray, *, height: int | None = None, width: int | None = None) -> np.ndarray:
    """`image` with another height or width; a side that is not given stays."""
    assert cykooz_resizer is not None, "the caller has asked"
    channels = image.shape[-1]
    pixel = cykooz_resizer.PixelType.U8x3 if channels == 3 else cykooz_resizer.PixelType.U8
    rows, columns = height or image.shape[0], width or image.shape[1]
    # The cut-out box is the source: with the resizer's own crop box, pixels around the box would have an influence.
    source = cykooz_resizer.ImageData(image.shape[1], image.shape[0], pixel, image.tobytes())
    result = cykooz_resizer.ImageData(columns, rows, pixel)
    # Catmull-Rom is Pillow's bicubic (a = −0.5); a convolution widens its support by the reduction.
    kernel = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)
    cykooz_resizer.Resizer().resize(source, result, cykooz_resizer.ResizeOptions(resize_alg=kernel))
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(rows, columns, channels)
