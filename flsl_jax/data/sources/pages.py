"""Files that hold several images: how many there are, and each of them as a record."""

import dataclasses
import io
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from flsl_jax.data.images import arrays, dicom, tiff, tiff_page
from flsl_jax.data.images.decode import DecodeError, open_with_pillow
from flsl_jax.data.records import Record, Source, checked_index, digest_of, path_of

# Suffixes of formats that have 8 bits and one page.
PLAIN = (".jpg", ".jpeg", ".bmp")
_MOVING = (b"\x89PNG", b"GIF8", b"RIFF")
_THREADS = 8


def page_numbers(data: bytes) -> list[int]:
    """The numbers of the images in a file, as `decode_image` takes them; of one that cannot be read, [0].

    In a TIFF, smaller copies of images and masks of their transparency are passed over.
    """
    if arrays.is_array(data):
        return list(range(max(1, arrays.page_count(data))))
    if dicom.is_dicom(data):
        return list(range(dicom.frame_count(data)))
    if tiff.is_tiff(data):
        return [page.number for page in tiff.pages(data) if not page.reduced] or [0]
    if not data.startswith(_MOVING):
        return [0]
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return list(range(getattr(image, "n_frames", 1)))
    except Exception:  # what reads it says why it is damaged
        return [0]


class PagedSource:
    """Every page of the files of another source as a record, in the order of the files; `warnings` as in `BoxedSource`.

    Every file is looked at once, to count its pages. Of TIFF files of 16 MiB and more, headers and the page that is asked for
    are read, of others all. A page's name is that of its file, `#` and its number from 1; files with one page keep their names.

    Args:
        source: of files.
    """

    def __init__(self, source: Source) -> None:
        self.name, self.class_names = source.name, source.class_names
        self.warnings: tuple[str, ...] = getattr(source, "warnings", ())
        self._source = source
        with ThreadPoolExecutor(_THREADS) as threads:
            counted = threads.map(self._numbers_of, range(len(source)))
            shown = tqdm(counted, total=len(source), desc="pages", unit=" files", delay=2, leave=False, disable=None)
            numbers = list(shown)
        self._numbers = np.concatenate([np.array(each, np.int32) for each in numbers])
        self._ends = np.cumsum([len(each) for each in numbers], dtype=np.int64)

    def _numbers_of(self, index: int) -> list[int]:
        path = path_of(self._source, index)
        if path is not None and os.path.splitext(path)[1].lower() in PLAIN:
            return [0]
        file = self._file(index)
        large = None if file is None else tiff_page.page_numbers(file)
        if large is not None:
            return large
        try:
            image = self._source[index].image
        except (DecodeError, OSError):  # training names it
            return [0]
        return page_numbers(image) if isinstance(image, bytes) else [0]

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def is_plain(self) -> bool:
        """Whether every file has one page, its first, so that the source itself would do."""
        return len(self) == len(self._source) and not self._numbers.any()

    @property
    def digest(self) -> str:
        """Of the files and their pages."""
        return digest_of("pages", self._source.digest, self._numbers.tobytes(), self._ends.tobytes())

    def path(self, index: int) -> str | None:
        """A page's path, where the source knows it without reading it."""
        file, page = self._place(index)
        path = path_of(self._source, file)
        return None if path is None else self._named(path, file, page)

    def label(self, index: int) -> int | None:
        """A page's label, where the source knows it without reading it."""
        known = getattr(self._source, "label", None)
        return None if known is None else known(self._place(index)[0])

    def __getitem__(self, index: int) -> Record:
        index = checked_index(index, len(self))
        file, page = self._place(index)
        number = int(self._numbers[index])
        where = self._file(file)
        alone = None if where is None else tiff_page.read_one(where, number=number)
        if alone is not None:
            return Record(image=alone, name=str(self.path(index)), label=self.label(index))
        record = self._source[file]
        return dataclasses.replace(record, name=self._named(record.name, file, page), page=number)

    def _file(self, index: int) -> str | None:
        """Where a file of the source lies, if its records are files of their own."""
        known = getattr(self._source, "file", None)
        return None if known is None else known(index)

    def _place(self, index: int) -> tuple[int, int]:
        """The number of a page's file, and that of the page in it."""
        file = int(np.searchsorted(self._ends, index, side="right"))
        return file, index - self._first(file)

    def _first(self, file: int) -> int:
        return int(self._ends[file - 1]) if file else 0

    def _named(self, name: str, file: int, page: int) -> str:
        return name if self._ends[file] - self._first(file) == 1 else f"{name}#{page + 1}"
