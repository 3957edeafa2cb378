"""16-bit colour in PNG, of which Pillow reads the high bytes alone."""

import io

import numpy as np
from PIL import Image

_BIT_DEPTH = 24
# How Pillow names such pixels, and the mode in which it reads them.
_RAW_MODES = {"RGB;16B": "RGB", "RGBA;16B": "RGBA"}


def has_16_bits(data: bytes) -> bool:
    """Whether the data are a PNG of 16 bits, by its header."""
    return data.startswith(b"\x89PNG") and data[_BIT_DEPTH : _BIT_DEPTH + 1] == b"\x10"


def deep_colour(data: bytes) -> np.ndarray | None:
    """The values of a PNG with 16-bit colour, uint16 [H, W, 3 or 4]; None for another PNG.

    Raises:
        Exception: what Pillow's readers raise on damaged files; ValueError: grey with transparency.
    """
    high, low = (_bytes(data, byte=byte) for byte in ("16B", "16L"))
    return None if high is None or low is None else high.astype(np.uint16) * 256 + low


def _bytes(data: bytes, *, byte: str) -> np.ndarray | None:
    """The first (`16B`, as Pillow reads them) or the second bytes (`16L`) of all values."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        tile = image.tile[0]
        if tile.args == "LA;16B":
            raise ValueError(
                "16-bit grey with transparency cannot be read with data.window; save it without, or as TIFF"
            )
        if tile.args not in _RAW_MODES:
            return None
        image.tile = [tile._replace(args=tile.args.replace("16B", byte))]
        image.load()
        return np.asarray(image)
