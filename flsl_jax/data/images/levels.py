"""From the values in a file to the levels of an image: how many bands, and which values are black and white."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from flsl_jax.config import TrainingImagesConfig
from flsl_jax.config.channels import read_window
from flsl_jax.config.source import MOST_CHANNELS
from flsl_jax.errors import one_line

# Larger images are converted in strips of so many pixels, so that no second copy of the whole is in memory.
STRIP_PIXELS = 1 << 20
_LARGEST = 65535


class DecodeError(Exception):
    """The bytes are not an image, or the image is damaged or unsupported. The message names the image and the reason.

    It is one line, whatever characters the name has.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How files are read for a network.

    `channels`: of its images. `window`: the values, lowest and highest, that become black and white in files that hold more
    than bytes; None: 0 and 65535.

    Three are colour, one is grey. A grey file gives three equal channels where three are wanted, and a colour file its luma
    (ITU-R 601, as Pillow's "L") where one is. Otherwise a file must have as many bands as there are channels: none is left out
    and none made up.
    """

    channels: int = 3
    window: tuple[float, float] | None = None

    def describe(self) -> str:
        """The decoding in words, for messages."""
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return channels + (f", values from {self.window[0]:g} to {self.window[1]:g}" if self.window else "")

    def takes(self, bands: int) -> bool:
        """Whether images with so many bands can be read."""
        return bands == self.channels or (bands, self.channels) in ((1, 3), (3, 1))


# How images are read where no network says anything else.
RGB = Decoding()


def decoding_of(data: TrainingImagesConfig) -> Decoding:
    """How a run reads its images, and how they are read for its networks; a window of "auto" is not known yet."""
    return Decoding(channels=data.channels, window=read_window(data.window))


def to_levels(values: np.ndarray, decoding: Decoding, *, name: str) -> UInt8[np.ndarray, "..."]:
    """Levels from 0 to 255 of values of any numeric type, of the same shape.

    Bytes are levels already. Others are scaled, so that the decoding's window becomes 0 … 255, cut off outside it and rounded;
    what is not a number becomes 0.

    Args:
        values: as the file has them.
        decoding: its window counts.
        name: what an error calls the image.

    Raises:
        DecodeError: without a window, the values have no known range: they are floating-point numbers, or outside 0 … 65535.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    levels = np.empty(values.shape, np.uint8)
    rows = max(1, STRIP_PIXELS * len(values) // max(1, values.size))
    for top in range(0, len(values), rows):
        levels[top : top + rows] = _strip_levels(values[top : top + rows], decoding, name=name)
    return levels


def _strip_levels(values: np.ndarray, decoding: Decoding, *, name: str) -> np.ndarray:
    if decoding.window is not None:
        low, high = decoding.window
        kind = np.float32 if values.dtype.itemsize <= 2 else np.float64
        levels = (np.nan_to_num(values.astype(kind), nan=low) - kind(low)) * kind(255 / (high - low))
        return np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8)
    if values.dtype.kind == "f":
        raise DecodeError(
            f"{name}: floating-point pixels have no known range; set data.window, or save it with 8 or 16 bits"
        )
    if values.min(initial=0) < 0 or values.max(initial=0) > _LARGEST:
        bits = 8 * values.dtype.itemsize
        raise DecodeError(f"{name}: {bits}-bit pixels outside 0 … 65535; set data.window, or save it with 8 or 16 bits")
    return ((values.astype(np.uint32) * 255 + 32767) // _LARGEST).astype(np.uint8)


def adapted(levels: UInt8[np.ndarray, "H W b"], decoding: Decoding, *, name: str) -> UInt8[np.ndarray, "H W C"]:
    """The channels that the decoding wants of the bands of an image.

    Raises:
        DecodeError: the image has another number of bands, and not grey for colour or colour for grey.
    """
    bands = levels.shape[-1]
    if not decoding.takes(bands):
        raise wrong_bands(bands, decoding, name=name)
    if bands == decoding.channels:
        return levels
    return np.repeat(levels, 3, axis=-1) if bands == 1 else luma(levels)


def wrong_bands(bands: int, decoding: Decoding, *, name: str) -> DecodeError:
    """The error that an image has another number of bands than wanted."""
    number = "1 band" if bands == 1 else f"{bands} bands"
    other = f"set config.data.channels={bands} for a new network, or " if bands <= MOST_CHANNELS else ""
    advice = f"{other}save it with {decoding.channels}"
    return DecodeError(
        f"{name}: it has {number}, and {decoding.channels} are wanted (channels of the network); {advice}"
    )


def luma(levels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 1"]:
    """ITU-R 601 luma, as Pillow's conversion to "L"."""
    grey = np.empty((*levels.shape[:2], 1), np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, levels.shape[1]))
    for top in range(0, len(levels), rows):
        red, green, blue = np.moveaxis(levels[top : top + rows].astype(np.uint32), -1, 0)
        grey[top : top + rows, :, 0] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    return grey


def on_white(
    levels: UInt8[np.ndarray, "H W b"], alpha: UInt8[np.ndarray, "H W"], *, premultiplied: bool
) -> UInt8[np.ndarray, "H W b"]:
    """Bands composited on white, rounded.

    Args:
        levels: of the bands.
        alpha: 255 for opaque, 0 for transparent.
        premultiplied: whether the levels have been multiplied by it already.
    """
    opaque = alpha.astype(np.uint32)[..., None]
    own = levels.astype(np.uint32) * (255 if premultiplied else opaque)
    return np.minimum((own + 255 * (255 - opaque) + 127) // 255, 255).astype(np.uint8)
