"""TIFF files: what their header says of the bands of an image, and those that Pillow does not read."""

import dataclasses
import io
import mmap
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flsl_jax.data.images.levels import DecodeError, Decoding, adapted, on_white, to_levels, wrong_bands
from flsl_jax.errors import first_line

# A file in memory, or one that is read where it lies.
Data = bytes | mmap.mmap
# The first bytes, by byte order and size of offsets.
MARKS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 254, 256, 257, 258, 262, 274, 277
_EXTRA, _FORMAT = 338, 339
# Types of fields whose values are whole numbers, by their number: bytes, shorts, longs, and BigTIFF's.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}
_MOST_VALUES, _MOST_PAGES, _MOST_FIELDS = 1024, 100_000, 4096
# Photometric interpretations: grey from white or from black, RGB; others are converted by Pillow alone.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED, _FLOAT = 1, 3
# Extra samples that are transparency: premultiplied, and not.
_PREMULTIPLIED, _UNASSOCIATED = 1, 2
_MOST_BYTES = 8 * 2 * 89_478_485


@dataclasses.dataclass(frozen=True)
class Page:
    """An image in a TIFF file, by its header.

    `number`: among all, from 0. `samples` of a pixel: first the colour, then extra ones, of which `extra` says what they are.
    `bits` of a sample. `kind`: 1 unsigned, 2 signed, 3 floating-point. `reduced`: whether it is a smaller copy or a mask of
    another one.
    """

    number: int
    height: int
    width: int
    samples: int
    bits: int
    kind: int
    photometric: int
    extra: tuple[int, ...]
    orientation: int
    reduced: bool

    @property
    def colours(self) -> int:
        """Samples of grey or colour, before the extra ones."""
        return min(self.samples, {2: 3, 5: 4, 6: 3, 8: 3}.get(self.photometric, 1))

    @property
    def alpha(self) -> int | None:
        """Which sample is transparency, if the file says of one that it is."""
        kinds = self.extra[: self.samples - self.colours]
        found = [place for place, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _UNASSOCIATED)]
        return self.colours + found[0] if found else None

    @property
    def bands(self) -> int:
        """Samples that are not transparency."""
        return self.samples - (self.alpha is not None)


def is_tiff(data: Data) -> bool:
    """Whether the data begin as a TIFF does."""
    return data[:4] in MARKS


def read_page(data: bytes, *, number: int = 0) -> Page | None:
    """The header of an image in a TIFF file; None for other data, or if it cannot be read."""
    return next((page for page in pages(data) if page.number == number), None)


def pages(data: Data) -> Iterator[Page]:
    """The headers of all images in a TIFF file, up to the first one that cannot be read. Nothing else of the file is read."""
    order, big = MARKS.get(data[:4], ("", False))
    if not order:
        return
    try:
        for number, offset in enumerate(directories(data, order=order, big=big)):
            yield _page(_fields(data, offset, order=order, big=big), number=number)
    except (struct.error, OverflowError, IndexError, ValueError):
        return


def directories(data: Data, *, order: str, big: bool) -> Iterator[int]:
    """Where the directory of each image begins, up to one that was met before.

    Raises:
        struct.error: an offset leads out of the file.
        ValueError: a directory has more fields than any image.
    """
    word = "Q" if big else "I"
    (offset,) = struct.unpack_from(order + word, data, 8 if big else 4)
    seen = set[int]()
    while offset and offset not in seen and len(seen) < _MOST_PAGES:
        seen.add(offset)
        start, count = _first_field(data, offset, order=order, big=big)
        (following,) = struct.unpack_from(order + word, data, start + count * (20 if big else 12))
        yield offset
        offset = following


def _first_field(data: Data, offset: int, *, order: str, big: bool) -> tuple[int, int]:
    """Where the fields of a directory begin, and how many there are."""
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    if count > _MOST_FIELDS:
        raise ValueError(f"{count} fields")
    return offset + (8 if big else 2), count


def _fields(data: Data, offset: int, *, order: str, big: bool) -> dict[int, tuple[int, ...]]:
    """The fields of a directory that are whole numbers."""
    (start, count), size = _first_field(data, offset, order=order, big=big), 20 if big else 12
    fields: dict[int, tuple[int, ...]] = {}
    for place in range(start, start + count * size, size):
        tag, kind, values = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        if kind not in _WHOLE or values > _MOST_VALUES:
            continue
        inner = place + (12 if big else 8)
        if values * SIZES[kind] > (8 if big else 4):
            (inner,) = struct.unpack_from(order + ("Q" if big else "I"), data, inner)
        fields[tag] = struct.unpack_from(f"{order}{values}{_WHOLE[kind]}", data, inner)
    return fields


def _page(fields: dict[int, tuple[int, ...]], *, number: int) -> Page:
    def first(tag: int, default: int) -> int:
        return (fields.get(tag) or (default,))[0]

    bits = fields.get(_BITS) or (1,)
    return Page(
        number=number,
        height=first(_HEIGHT, 0),
        width=first(_WIDTH, 0),
        samples=first(_SAMPLES, 1),
        bits=max(bits),
        kind=first(_FORMAT, _UNSIGNED),
        photometric=first(_PHOTOMETRIC, _BLACK_IS_ZERO),
        extra=fields.get(_EXTRA, ()),
        orientation=first(_ORIENTATION, 1),
        # Bit 0: a reduced copy of another image in the file; bit 2: a mask of its transparency.
        reduced=bool(first(_SUBFILE, 0) & 0b101),
    )


def beyond_pillow(page: Page, decoding: Decoding) -> bool:
    """Whether Pillow cannot read an image, or would leave something of it out: bands, or bits that the window needs."""
    if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or not page.samples:
        return False
    if page.bands != page.colours:
        return True
    if page.samples == 1:  # Pillow reads these as they are
        return page.kind == _FLOAT and page.bits != 32
    return page.kind != _UNSIGNED or page.bits > 16 or (page.bits > 8 and decoding.window is not None)


def read(data: bytes, page: Page, decoding: Decoding, *, name: str) -> UInt8[np.ndarray, "H W C"]:
    """The channels of an image that Pillow does not read, without its orientation; see `decode.decode_image`.

    Raises:
        DecodeError: it is damaged or too large, its bands are not those wanted, or tifffile, which reads it, is not installed.
    """
    if page.samples != decoding.channels and not decoding.takes(page.bands):
        raise wrong_bands(page.bands, decoding, name=name)
    values = values_of(data, page, name=name)
    levels = to_levels(values, decoding, name=name)
    if page.photometric == _WHITE_IS_ZERO:
        levels = 255 - levels
    if page.samples == decoding.channels or page.alpha is None:
        return adapted(levels, decoding, name=name)
    alpha = values[..., page.alpha]
    shares = alpha.dtype.kind == "f"  # of 1
    opaque = np.asarray(255 * np.clip(alpha, 0, 1) + 0.5) if shares else to_levels(alpha, Decoding(), name=name)
    premultiplied = page.extra[page.alpha - page.colours] == _PREMULTIPLIED
    return adapted(
        on_white(np.delete(levels, page.alpha, axis=-1), opaque.astype(np.uint8), premultiplied=premultiplied),
        decoding,
        name=name,
    )


def values_of(data: bytes, page: Page, *, name: str) -> np.ndarray:
    """All samples of an image, [H, W, samples], as the file has them.

    Raises:
        DecodeError: as `read`.
    """
    size = page.height * page.width * page.samples * max(1, page.bits // 8)
    if size > _MOST_BYTES:
        raise DecodeError(
            f"{name}: {page.width}×{page.height} pixels with {page.samples} samples are more than can be read"
        )
    tifffile = _library(name)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            found = file.pages[page.number]
            values = np.asarray(found.asarray(maxworkers=1))
    except Exception as error:  # damaged files raise nearly every built-in exception
        raise DecodeError(f"{name}: {first_line(error)}") from error
    expected = (page.height, page.width, page.samples)
    if values.size != page.height * page.width * page.samples:
        raise DecodeError(f"{name}: its pixels have the shape {values.shape}, and its header says {expected}")
    if values.shape == (page.samples, page.height, page.width) and page.samples > 1:  # bands one after the other
        return np.moveaxis(values, 0, -1)
    return values.reshape(expected)


def _library(name: str) -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise DecodeError(
            f"{name}: a TIFF of such bands or bits needs tifffile ({error}); pip install tifffile imagecodecs"
        ) from error
    return tifffile
