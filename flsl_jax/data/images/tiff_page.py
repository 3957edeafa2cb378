"""One page of a large TIFF stack, read where it lies: a file of that page alone, so that the rest is not read for each page."""

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from flsl_jax.data.images import tiff
from flsl_jax.data.images.listing import open_file

# Smaller files are read whole.
LARGE_BYTES = 16 << 20
_OLD_JPEG, _COMPRESSION = 6, 259
# Where the strips or tiles of an image begin, and how long they are.
_SEGMENTS = ((273, 279), (324, 325))
# What says nothing about the pixels: the description, directories below this one, EXIF and GPS, JPEG as TIFF 6.0 had it.
_LEFT_OUT = {270, 330, 34665, 34853, 40965}
_OLD_JPEG_FIELDS = {513, 514, 519, 520, 521}
_NUMBERS = {3: "H", 4: "I", 16: "Q"}


class _Field(NamedTuple):
    """A field of a directory: its tag, the type and number of its values, and their bytes."""

    tag: int
    kind: int
    count: int
    values: bytes


def page_numbers(path: str) -> list[int] | None:
    """The numbers of the images in a large TIFF file, as `pages.page_numbers` has them; None for other files.

    Headers alone are read.
    """
    with _mapped(path) as data:
        return None if data is None else [page.number for page in tiff.pages(data) if not page.reduced] or [0]


def read_one(path: str, *, number: int) -> bytes | None:
    """A TIFF file in memory with one image of a large one, which decodes to the same pixels; None for other files.

    None stands also for files that have to be read whole, because they are damaged or of an old kind.
    """
    with _mapped(path) as data:
        return None if data is None else _alone(data, number=number)


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[mmap.mmap | None]:
    """The bytes of a large TIFF file, which are read when they are looked at; None for other files, or none."""
    with contextlib.ExitStack() as stack:
        data = None
        try:
            if os.path.getsize(path) >= LARGE_BYTES:
                file = stack.enter_context(open_file(path))
                data = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError):  # what reads the file says why
            data = None
        yield data if data is not None and tiff.is_tiff(data[:4]) else None


def _alone(data: mmap.mmap, *, number: int) -> bytes | None:
    order, big = tiff.MARKS[data[:4]]
    try:
        fields = _directory(data, number, order=order, big=big)
        segments = None if fields is None else _segments(data, fields, order=order)
    except (struct.error, OverflowError, IndexError, ValueError):
        return None
    return (
        None if fields is None or segments is None else _written(fields, segments, mark=data[:4], order=order, big=big)
    )


def _directory(data: mmap.mmap, number: int, *, order: str, big: bool) -> dict[int, _Field] | None:
    """The fields of an image by their tags; None if there are values of an unknown type, or cut off."""
    word, size, inner = ("Q", 20, 12) if big else ("I", 12, 8)
    offsets = tiff.directories(data, order=order, big=big)
    offset = next((offset for place, offset in enumerate(offsets) if place == number), None)
    if offset is None:
        return None
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
    start, fields = offset + (8 if big else 2), {}
    for place in range(start, start + count * size, size):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", data, place)
        if kind not in tiff.SIZES:
            return None
        length, where = values * tiff.SIZES[kind], place + inner
        if length > struct.calcsize(word):
            (where,) = struct.unpack_from(order + word, data, where)
        found = data[where : where + length]
        if len(found) != length:
            return None
        fields[tag] = _Field(tag, kind, values, found)
    return fields


def _segments(data: mmap.mmap, fields: dict[int, _Field], *, order: str) -> list[bytes] | None:
    """The strips or tiles of an image; None if it has none, they are cut off, or it is of an old kind."""
    places = next((pair for pair in _SEGMENTS if all(tag in fields for tag in pair)), None)
    compression = _values(fields[_COMPRESSION], order=order)[0] if _COMPRESSION in fields else 1
    if places is None or compression == _OLD_JPEG or _OLD_JPEG_FIELDS & fields.keys():
        return None
    offsets, lengths = (_values(fields[tag], order=order) for tag in places)
    if len(offsets) != len(lengths) or any(offset + size > len(data) for offset, size in zip(offsets, lengths)):
        return None
    return [data[offset : offset + size] for offset, size in zip(offsets, lengths)]


def _values(field: _Field, *, order: str) -> tuple[int, ...]:
    return struct.unpack(f"{order}{field.count}{_NUMBERS[field.kind]}", field.values)


def _written(fields: dict[int, _Field], segments: list[bytes], *, mark: bytes, order: str, big: bool) -> bytes | None:
    """The file; None if it would be too large for its kind."""
    word, size, kind = ("Q", 20, 16) if big else ("I", 12, 4)
    wide = struct.calcsize(word)
    kept = {tag: field for tag, field in fields.items() if tag not in _LEFT_OUT}
    where = next(tag for tag, _ in _SEGMENTS if tag in kept)
    kept[where] = _Field(where, kind, len(segments), bytes(wide * len(segments)))
    head = mark + (struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8))
    end = len(head) + (8 if big else 2) + size * len(kept) + wide
    begin = end + sum(len(field.values) + len(field.values) % 2 for field in kept.values() if len(field.values) > wide)
    if not big and begin + sum(map(len, segments)) >= 1 << 32:
        return None
    starts = list(accumulate(map(len, segments), initial=begin))[:-1]
    kept[where] = kept[where]._replace(values=struct.pack(f"{order}{len(starts)}{word}", *starts))
    directory, values = struct.pack(order + ("Q" if big else "H"), len(kept)), b""
    for field in sorted(kept.values()):
        directory += struct.pack(f"{order}HH{word}", field.tag, field.kind, field.count)
        if len(field.values) > wide:
            directory += struct.pack(order + word, end + len(values))
            values += field.values + bytes(len(field.values) % 2)
        else:
            directory += field.values.ljust(wide, b"\0")
    return b"".join((head, directory, bytes(wide), values, *segments))
