"""Image files by their paths below a folder: what a folder, a list of files and a single image have in common."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np

from flsl_jax.data.images.listing import Listing, read_file
from flsl_jax.data.records import Record, checked_index, digest_of


class PackedNames:
    """A sequence of texts in one string with offsets: a list of a million would take ten times as much memory, in every worker.

    Args:
        names: file names, as bytes.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self.joined = b"".join(names)
        self.ends = np.cumsum([len(name) for name in names], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index > 0 else 0
        return os.fsdecode(self.joined[start : self.ends[index]])


class FilesSource:
    """Image files below a folder, in a given order.

    Args:
        name: for messages.
        folder: where relative paths begin.
        listing: the files, and what was passed over; its `paths` are kept here instead.
        labels: of each file, the number of its class, -1 for none; None: no file has one.
        class_names: of the labels.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: str,
        listing: Listing,
        labels: np.ndarray | None = None,
        class_names: tuple[str, ...] = (),
    ) -> None:
        self.name, self.class_names = name, class_names
        self._folder, self._names, self._labels = folder, PackedNames(listing.paths), labels
        self.listing = dataclasses.replace(listing, paths=[])

    def __len__(self) -> int:
        return len(self._names)

    @property
    def digest(self) -> str:
        """Of the paths; the files are not read."""
        return digest_of("folder", self._names.joined, self._names.ends.tobytes())

    def path(self, index: int) -> str:
        """An image's path relative to the folder, with forward slashes."""
        return self._names[index]

    def file(self, index: int) -> str:
        """Where an image's file is."""
        return os.path.join(self._folder, self.path(index))

    def label(self, index: int) -> int | None:
        """An image's label, without reading it; None without one."""
        label = -1 if self._labels is None else int(self._labels[index])
        return None if label < 0 else label

    def size(self, index: int) -> int:
        """Of the file in bytes; 0 if it is gone since it was listed."""
        try:
            return os.path.getsize(self.file(index))
        except OSError:
            return 0

    def __getitem__(self, index: int) -> Record:
        index = checked_index(index, len(self))
        return Record(image=read_file(self.file(index)), name=self.path(index), label=self.label(index))


def classes_of_folders(paths: Sequence[bytes], *, fewest: int = 2) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names and labels of paths whose first folder is their class.

    Args:
        paths: relative ones, with forward slashes.
        fewest: with fewer such folders there are no labels.

    Returns:
        No names and None if a path has no folder, or there are too few.
    """
    if not paths or not all(b"/" in path for path in paths):
        return (), None
    folders = [path.split(b"/", 1)[0] for path in paths]
    names = sorted(set(folders))
    if len(names) < fewest:
        return (), None
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[folder] for folder in folders], np.int32)
    return tuple(os.fsdecode(name) for name in names), labels


def class_numbers(labels: Sequence[str | None]) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Class names, in the order of numbers if all of them are, else of words; and each file's label."""
    known = {label for label in labels if label is not None}
    if not known:
        return (), None
    numeric = all(re.fullmatch(r"-?\d+", label) for label in known)
    names = sorted(known, key=(lambda label: (int(label), label)) if numeric else None)
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([-1 if label is None else numbers[label] for label in labels], np.int32)


def without_common_folders(paths: Sequence[bytes]) -> list[bytes]:
    """The paths without the folders that all of them share."""
    folders = [os.path.dirname(path) for path in paths]
    if len({os.path.isabs(folder) for folder in folders}) != 1:
        return list(paths)
    common = os.path.commonpath(folders)
    start = len(common.rstrip(b"/")) + 1 if common else 0
    return [path[start:] for path in paths]
