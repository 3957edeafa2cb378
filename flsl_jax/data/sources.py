"""Folders of image files, and opening the data set that a config describes."""

import os
from pathlib import Path

import numpy as np

from flsl_jax.config import SourceConfig
from flsl_jax.data.boxed_source import with_boxes
from flsl_jax.data.records import Record, Source, checked_index, digest_of
from flsl_jax.data.scenes import Scenes
from flsl_jax.data.shards import MANIFEST_NAME, ShardSource
from flsl_jax.data.tfds_source import TfdsSource
from flsl_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


class FolderSource:
    """Every image file below a folder, at any depth, in the order of the relative paths.

    Files and folders whose name starts with a dot are skipped. Symbolic links are followed; no folder is read twice.
    There are labels if the layout is one folder per class: no image lies in `root` itself, and at least two of its folders
    hold images. The label is then the number of the first-level folder in sorted order.

    Args:
        root: the folder.

    Raises:
        UserError: `root` does not exist, is not a folder or holds no image; or it, or a folder below it, cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.name = os.fspath(root)
        paths = _image_paths(self.name)
        if not paths:
            packed = os.path.isfile(os.path.join(self.name, MANIFEST_NAME))
            raise UserError(
                f"{self.name} holds no image file ({' '.join(IMAGE_SUFFIXES)}, at any depth); name a folder of images"
                + (", or for shards of python -m flsl_jax.prepare set name=shards beside root" if packed else "")
            )
        # One string with offsets: a list of a million strings would take ten times as much memory, in every worker.
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        folders = sorted({path.split(b"/", 1)[0] for path in paths}) if all(b"/" in path for path in paths) else []
        self.class_names = tuple(os.fsdecode(folder) for folder in folders) if len(folders) > 1 else ()
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def digest(self) -> str:
        """Of the relative paths; the files are not read."""
        return digest_of("folder", self._paths, self._ends.tobytes())

    def path(self, index: int) -> str:
        """An image's path relative to the root, with forward slashes."""
        start = self._ends[index - 1] if index > 0 else 0
        return os.fsdecode(self._paths[start : self._ends[index]])

    def label(self, index: int) -> int | None:
        """An image's label, from its path alone; None without labels."""
        return self._labels[self.path(index).split("/", 1)[0]] if self._labels else None

    def __getitem__(self, index: int) -> Record:
        index = checked_index(index, len(self))
        path = self.path(index)
        with open(os.path.join(self.name, path), "rb") as file:
            return Record(image=file.read(), name=path, label=self.label(index))


def _image_paths(root: str) -> list[bytes]:
    """Relative paths of all image files below `root`, sorted by their bytes."""
    if not root:
        raise UserError("config.data.root is empty; name the folder that holds the images")
    suffixes = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
    paths: list[bytes] = []
    visited: set[tuple[int, int]] = set()
    folders = [b""]
    while folders:
        folder = folders.pop()
        try:
            absolute = os.path.join(os.fsencode(root), folder)
            status = os.stat(absolute)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(absolute) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if entry.is_dir():
                        folders.append(folder + entry.name + b"/")
                    elif entry.name.lower().endswith(suffixes):
                        paths.append(folder + entry.name)
        except OSError as error:
            where = os.path.join(root, os.fsdecode(folder)) if folder else root
            raise UserError(f"{where} cannot be read ({error.strerror}); name a folder of images") from error
    return sorted(paths)


class FirstRecords:
    """The first `limit` records of another source."""

    def __init__(self, source: Source, *, limit: int) -> None:
        self.name, self.class_names = source.name, source.class_names
        self._source, self._length = source, min(limit, len(source))

    @property
    def digest(self) -> str:
        return digest_of("first", str(self._length), self._source.digest)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Record:
        return self._source[checked_index(index, self._length)]


def open_source(config: SourceConfig) -> Source:
    """Opens what a config describes.

    Raises:
        UserError: the data set is missing, unreadable or incomplete, or the config lacks a value.
    """
    source = _open(config)
    if config.boxes:
        source = with_boxes(source, Path(config.boxes))
    return FirstRecords(source, limit=config.limit) if config.limit > 0 else source


def _open(config: SourceConfig) -> Source:
    if config.name == "folder":
        return FolderSource(config.root)
    if config.name == "tfds":
        return TfdsSource(config.dataset, split=config.split, data_dir=config.root)
    if config.name == "shards":
        return ShardSource(config.root)
    return Scenes(count=config.count, size=config.scene_size, split=config.split, kind=config.scene_kind)
