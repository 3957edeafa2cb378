"""Folders of image files, and opening the data set that a config describes."""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np

from flsl_jax.config import SourceConfig
from flsl_jax.data.boxed_source import with_boxes
from flsl_jax.data.listing import IMAGE_SUFFIXES, list_images, read_file
from flsl_jax.data.records import Record, Source, checked_index, digest_of
from flsl_jax.data.scenes import Scenes
from flsl_jax.data.shards import MANIFEST_NAME, ShardSource
from flsl_jax.data.tfds_source import TfdsSource
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)


class FolderSource:
    """Every image file below a folder, at any depth, in the order of the relative paths.

    Files and folders whose name starts with a dot are skipped. Symbolic links are followed; no folder is read twice. `listing`
    says what was found and passed over; its own paths are empty.
    There are labels if the layout is one folder per class: no image lies in `root` itself, and at least two of its folders
    hold images. The label is then the number of the first-level folder in sorted order.

    Args:
        root: the folder.
        on_corrupt: "fail" refuses a FIFO, a socket, a device, or a link that leads nowhere or to itself, if it has the name of
            an image or a link's name has no suffix; otherwise such things are passed over.

    Raises:
        UserError: `root` does not exist, is not a folder or holds no image; or it, or a folder below it, cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str], *, on_corrupt: str = "replace") -> None:
        self.name = os.fspath(root)
        listing = list_images(self.name)
        if listing.unusable and on_corrupt == "fail":
            path, kind = listing.unusable[0]
            raise UserError(
                f"{os.path.join(self.name, path)} is {kind}, not an image ({len(listing.unusable)} such in all); remove it, or "
                "set on_corrupt=replace to pass over what is no file"
            )
        paths = listing.paths
        if not paths:
            packed = os.path.isfile(os.path.join(self.name, MANIFEST_NAME))
            raise UserError(
                f"{self.name} holds no image file ({' '.join(IMAGE_SUFFIXES)}, at any depth); name a folder of images"
                + (", or for shards of python -m flsl_jax.prepare set name=shards beside root" if packed else "")
                + (f" ({listing})" if listing.unusable else "")
            )
        # One string with offsets: a list of a million strings would take ten times as much memory, in every worker.
        self._paths = b"".join(paths)
        self._ends = np.cumsum([len(path) for path in paths], dtype=np.int64)
        self.listing = dataclasses.replace(listing, paths=[])
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
        return Record(image=read_file(os.path.join(self.name, path)), name=path, label=self.label(index))


class FirstRecords:
    """The first `limit` records of another source; `warnings` as in `BoxedSource`."""

    def __init__(self, source: Source, *, limit: int) -> None:
        self.name, self.class_names = source.name, source.class_names
        self.warnings: tuple[str, ...] = getattr(source, "warnings", ())
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
        folder = FolderSource(config.root, on_corrupt=config.on_corrupt)
        log.info("%s: %s", folder.name, folder.listing)
        return folder
    if config.name == "tfds":
        return TfdsSource(config.dataset, split=config.split, data_dir=config.root)
    if config.name == "shards":
        return ShardSource(config.root)
    return Scenes(count=config.count, size=config.scene_size, split=config.split, kind=config.scene_kind)
