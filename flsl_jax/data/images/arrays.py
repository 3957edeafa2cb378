"""Images as NumPy saves arrays (`.npy`)."""

import io
import math

import numpy as np
from jaxtyping import UInt8

from flsl_jax.config.source import MOST_CHANNELS
from flsl_jax.data.images.levels import DecodeError, Decoding, adapted, to_levels
from flsl_jax.errors import first_line

_MAGIC = b"\x93NUMPY"
# Axes of an array of several images.
_PAGED = 4


def is_array(data: bytes) -> bool:
    """Whether the data begin as a `.npy` file does."""
    return data.startswith(_MAGIC)


def read(data: bytes, decoding: Decoding, *, name: str, page: int = 0) -> UInt8[np.ndarray, "H W C"]:
    """An image in a `.npy` file: [H, W], [H, W, bands] with the bands last, or [pages, H, W, bands], of whole or floating-point
    numbers.

    Raises:
        DecodeError: the file is damaged, or the array has another shape or type, or values as in `to_levels`.
    """
    values = values_of(data, name=name, page=page)
    bands = values[..., None] if values.ndim == 2 else values
    if bands.shape[-1] not in (decoding.channels, 1, 3) and bands.shape[0] == decoding.channels:
        raise DecodeError(
            f"{name}: an array of shape {values.shape} has its bands first; save it as [height, width, bands]: "
            "numpy.moveaxis(array, 0, -1)"
        )
    if bands.shape[-1] > MOST_CHANNELS:
        raise DecodeError(
            f"{name}: an array of shape {values.shape} would have {bands.shape[-1]} bands; save an image as [height, width, "
            "bands], and several, such as the slices of a volume, as [pages, height, width, bands]: array[..., None]"
        )
    return adapted(to_levels(bands, decoding, name=name), decoding, name=name)


def page_count(data: bytes) -> int:
    """The number of images in a `.npy` file; 1 where its header cannot be read."""
    try:
        shape = _header(io.BytesIO(data))[0]
    except (ValueError, TypeError, EOFError):
        return 1
    return shape[0] if len(shape) == _PAGED else 1


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether columns come first, and the type."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read_header(file)


def values_of(data: bytes, *, name: str, page: int = 0) -> np.ndarray:
    """The array of an image itself, [H, W] or [H, W, bands].

    Raises:
        DecodeError: as `read`, but for the values.
    """
    file = io.BytesIO(data)
    try:
        shape, columns_first, dtype = _header(file)
        size = math.prod(shape)
        if dtype.kind not in "buif" or dtype.itemsize > 8:
            raise DecodeError(f"{name}: an array of {dtype} is no image; save whole or floating-point numbers")
        if len(shape) not in (2, 3, _PAGED) or not size:
            raise DecodeError(f"{name}: an array of shape {shape} is no image; save it as [height, width, bands]")
        found = len(data) - file.tell()
        if found != size * dtype.itemsize:
            raise DecodeError(f"{name}: the file is truncated: {found:,} bytes of {size * dtype.itemsize:,}")
        values = np.frombuffer(data, dtype, count=size, offset=file.tell())
    except (ValueError, TypeError, EOFError, OverflowError) as error:
        raise DecodeError(f"{name}: no array as NumPy saves it ({first_line(error)})") from error
    whole = values.reshape(shape[::-1]).T if columns_first else values.reshape(shape)
    if len(shape) != _PAGED:
        return whole
    if page >= shape[0]:
        raise DecodeError(f"{name}: it has {shape[0]} pages, and page {page + 1} is asked for")
    return whole[page]
