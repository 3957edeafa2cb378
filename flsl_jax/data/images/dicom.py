"""DICOM images, read by pydicom: an extra, imported when the first one comes."""

import io
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flsl_jax.data.images.levels import RGB, DecodeError, Decoding, adapted, to_levels
from flsl_jax.errors import first_line

_PREAMBLE, _MAGIC = 128, b"DICM"
# So many bytes at the beginning of a file tell whether it is one.
HEAD_BYTES = _PREAMBLE + len(_MAGIC)
_MOST_BYTES = 8 * 2 * 89_478_485


def is_dicom(data: bytes) -> bool:
    """Whether the data begin as a DICOM file does."""
    return data[_PREAMBLE : _PREAMBLE + len(_MAGIC)] == _MAGIC


def read(data: bytes, decoding: Decoding, *, name: str, page: int = 0) -> UInt8[np.ndarray, "H W C"]:
    """The channels of a frame.

    Grey values are those after the file's rescale slope and intercept (Hounsfield units in a CT). The decoding's window makes
    levels of them; without one the file's own first window (its centre and width), or if it has none the range of its stored
    bits. MONOCHROME1 is inverted, so that white is bright. Colour is converted to RGB.

    Raises:
        DecodeError: pydicom is not installed, or the file is damaged, holds no image, is too large, or is compressed in a way
            that needs another package, which the message names.
    """
    header = _header(data, name=name)
    values = _values(header, name=name, page=page)
    if values.ndim == 3:  # colour, 8 bits, or 16 of a palette
        return adapted(to_levels(values, RGB, name=name), decoding, name=name)
    window = decoding.window or _own_window(header, page=page)
    grey = to_levels(_rescaled(values, header, page=page), Decoding(channels=1, window=window), name=name)[..., None]
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return adapted(grey, decoding, name=name)


def values_of(data: bytes, *, name: str) -> np.ndarray | None:
    """The grey values of the first frame, float64 [H, W], after slope and intercept; None for colour.

    Raises:
        DecodeError: as `read`.
    """
    header = _header(data, name=name)
    values = _values(header, name=name, page=0)
    return None if values.ndim == 3 else _rescaled(values, header, page=0)


def size_of(data: bytes, *, name: str) -> tuple[int, int]:
    """Width and height of a frame.

    Raises:
        DecodeError: as `read`.
    """
    header = _header(data, name=name)
    return int(header.Columns), int(header.Rows)


def frame_count(data: bytes) -> int:
    """The number of images in a file; 1 where that cannot be read."""
    try:
        return max(1, int(_header(data, name="").get("NumberOfFrames") or 1))
    except (DecodeError, ValueError, TypeError):
        return 1


def _header(data: bytes, *, name: str) -> Any:
    """The data set; its pixels are not decoded yet."""
    try:
        import pydicom
    except ImportError as error:
        raise DecodeError(f"{name}: a DICOM file needs pydicom ({error}); pip install pydicom") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(io.BytesIO(data))
            rows, columns = int(header.Rows), int(header.Columns)
            samples, frames = int(header.get("SamplesPerPixel") or 1), int(header.get("NumberOfFrames") or 1)
            size = rows * columns * samples * max(1, int(header.BitsAllocated) // 8)
    except Exception as error:  # damaged files raise nearly every built-in exception
        raise DecodeError(f"{name}: no DICOM image ({type(error).__name__}: {first_line(error)})") from error
    if min(rows, columns, samples, frames) < 1 or size > _MOST_BYTES:
        raise DecodeError(f"{name}: {columns}×{rows} pixels with {samples} samples cannot be read")
    return header


def _values(header: Any, *, name: str, page: int) -> np.ndarray:
    """The stored values of a frame, [H, W], or colour [H, W, 3]."""
    try:
        from pydicom.pixels import apply_color_lut, pixel_array

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(pixel_array(header, index=page))
            if header.get("PhotometricInterpretation") == "PALETTE COLOR":
                values = apply_color_lut(values, header)
    except Exception as error:  # damaged files, and packages that are missing, raise nearly every built-in exception
        raise DecodeError(f"{name}: {first_line(error)}") from error
    if values.shape[:2] != (header.Rows, header.Columns) or values.shape[2:] not in ((), (3,)):
        raise DecodeError(f"{name}: its pixels have the shape {values.shape}, which is no image")
    return values


def _rescaled(values: np.ndarray, header: Any, *, page: int) -> np.ndarray:
    slope, intercept = _rescale(header, page=page)
    return values.astype(np.float64) * slope + intercept


def _rescale(header: Any, *, page: int) -> tuple[float, float]:
    """Slope and intercept: of the file, of the frame, or of all frames; else 1 and 0."""
    found = _with_field(header, "PixelValueTransformationSequence", "RescaleSlope", page=page)
    if found is None:
        return 1.0, 0.0
    return float(found.RescaleSlope), float(found.get("RescaleIntercept") or 0)


def _own_window(header: Any, *, page: int) -> tuple[float, float]:
    """The values that are black and white by the file: of its first window, else the smallest and largest stored ones."""
    found = _with_field(header, "FrameVOILUTSequence", "WindowCenter", page=page)
    if found is not None:
        centre, width = _first(found.WindowCenter), _first(found.get("WindowWidth"))
        if centre is not None and width is not None and width > 1:
            # PS3.3, C.11.2.1.2: a linear window.
            return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    bits = int(header.get("BitsStored") or header.BitsAllocated)
    signed = bool(header.get("PixelRepresentation"))
    slope, intercept = _rescale(header, page=page)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _with_field(header: Any, sequence: str, field: str, *, page: int) -> Any:
    """The part of the data set that has a field: the whole, or the group of the frame, or that of all frames; else None."""
    if header.get(field) is not None:
        return header
    for groups, number in (("PerFrameFunctionalGroupsSequence", page), ("SharedFunctionalGroupsSequence", 0)):
        frames = header.get(groups)
        items = frames[number].get(sequence) if frames is not None and number < len(frames) else None
        if items and items[0].get(field) is not None:
            return items[0]
    return None


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is None or isinstance(value, str):
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None
