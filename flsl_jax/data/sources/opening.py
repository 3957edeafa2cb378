"""Folders of image files, and opening the data set that a config describes."""

import dataclasses
import logging
import os
from itertools import groupby
from pathlib import Path

from flsl_jax.config import SourceConfig
from flsl_jax.config.roots import root_names, split_roots
from flsl_jax.data.images.listing import IMAGE_SUFFIXES, list_images
from flsl_jax.data.records import Record, Source, checked_index, digest_of
from flsl_jax.data.sources.boxed_source import with_boxes
from flsl_jax.data.sources.clip_source import ClipSource
from flsl_jax.data.sources.files import FilesSource, classes_of_folders
from flsl_jax.data.sources.hugging_face import HuggingFaceSource
from flsl_jax.data.sources.joined import join
from flsl_jax.data.sources.kinds import ROOT_OF, check_kind, kind_read
from flsl_jax.data.sources.lists import ListSource, OneImage
from flsl_jax.data.sources.pages import PagedSource
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.sources.shards import ShardSource
from flsl_jax.data.sources.tars import TarSource, tar_files
from flsl_jax.data.sources.tfds_source import TfdsSource
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# Kinds of sources whose files may be opened one by one to count their pages.
_PAGED = {"folder", "list", "image"}


class FolderSource(FilesSource):
    """Every image file below a folder, at any depth, in the order of the relative paths.

    Files and folders whose name starts with a dot are skipped. Symbolic links are followed; no folder is read twice. `listing`
    says what was found and passed over; its own paths are empty.
    There are labels if the layout is one folder per class: no image lies in `root` itself, and at least two of its folders
    hold images. The label is then the number of the first-level folder in sorted order.

    Args:
        root: the folder.
        on_corrupt: "fail" refuses a FIFO, a socket, a device, or a link that leads nowhere or to itself, if it has the name of
            an image or a link's name has no suffix; otherwise such things are passed over.
        fewest_classes: with fewer folders of images there are no labels.

    Raises:
        UserError: `root` does not exist, is not a folder or holds no image; or it, or a folder below it, cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str], *, on_corrupt: str = "replace", fewest_classes: int = 2) -> None:
        name = os.fspath(root)
        listing = list_images(name)
        if listing.unusable and on_corrupt == "fail":
            path, kind = listing.unusable[0]
            raise UserError(
                f"{os.path.join(name, path)} is {kind}, not an image ({len(listing.unusable)} such in all); remove it, or "
                "set on_corrupt=replace to pass over what is no file"
            )
        if not listing.paths:
            raise UserError(
                f"{name} holds no image file ({' '.join(IMAGE_SUFFIXES)}, at any depth); name a folder of images"
                + (f" ({listing})" if listing.has_passed_over else "")
            )
        class_names, labels = classes_of_folders(listing.paths, fewest=fewest_classes)
        super().__init__(name=name, folder=name, listing=listing, labels=labels, class_names=class_names)


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
    if config.pages == "all":
        source = _paged(source, config)
    if config.boxes:
        source = with_boxes(source, Path(config.boxes))
    return FirstRecords(source, limit=config.limit) if config.limit > 0 else source


def open_any(roots: str, *, config: SourceConfig | None = None) -> Source:
    """Opens folders and files by what they are, for commands that have no key for that.

    Args:
        roots: one, or several with commas between them.
        config: whose other keys are used; None: the defaults.

    Raises:
        UserError: as `open_source`.
    """
    return open_source(dataclasses.replace(config or SourceConfig(), name="auto", root=roots))


def _open(config: SourceConfig) -> Source:
    if config.name == "tfds":
        return TfdsSource(config.dataset, split=config.split, data_dir=config.root)
    if config.name == "scenes":
        return Scenes(count=config.count, size=config.scene_size, split=config.split, kind=config.scene_kind)
    roots = split_roots(config.root)
    if not roots:
        raise UserError(f"config.data.root is empty; name the {ROOT_OF[config.name]}")
    kinds = [kind_read(root, config.name) for root in roots]
    # Tar files beside one another are one data set, whose classes are numbered together.
    groups = [list(group) for _, group in groupby(range(len(roots)), key=lambda i: -1 if kinds[i] == "tar" else i)]
    parts = [_open_root([roots[i] for i in group], kinds[group[0]], config, several=len(roots) > 1) for group in groups]
    # Classes of folders that lie side by side are those of one folder with all that is in them.
    fewest = 2 if set(kinds) <= {"folder", "video"} else 1
    names = root_names([roots[group[0]] for group in groups])
    return join(parts, names=names, name=", ".join(roots), fewest_classes=fewest)


def _paged(source: Source, config: SourceConfig) -> Source:
    """Every page of every file."""
    if config.boxes:
        raise UserError(
            f"boxes={config.boxes} belong to images, and pages=all makes several of one file; set pages=first, or leave boxes "
            "out"
        )
    kinds = {kind_read(root, config.name) for root in split_roots(config.root)}
    others = sorted(kinds - _PAGED) or ([] if kinds else [config.name])
    if others:
        raise UserError(
            f"pages=all takes the files of a folder or a list, and the source is of the kind {others[0]}; set pages=first"
        )
    paged = PagedSource(source)
    log.info("%s: %d pages of %d files, each an image", source.name, len(paged), len(source))
    return source if paged.is_plain else paged


def _open_root(roots: list[str], kind: str, config: SourceConfig, *, several: bool) -> Source:
    root, fewest = roots[0], 1 if several else 2
    for each in roots:
        check_kind(each, kind)
    if kind == "shards":
        return ShardSource(root)
    if kind == "image":
        return OneImage(root)
    columns = {"image_column": config.image_column, "label_column": config.label_column}
    if kind == "list":
        share = config.max_corrupt_share
        source: FilesSource | TarSource | ClipSource | HuggingFaceSource = ListSource(
            root, **columns, on_corrupt=config.on_corrupt, max_corrupt_share=share
        )
    elif kind == "huggingface":
        source = HuggingFaceSource(root, split=config.split, **columns)
    elif kind == "tar":
        paths = [path for root in roots for path in tar_files(root)]
        name = root if len(roots) == 1 else f"{root} and {len(roots) - 1} more"
        source = TarSource(paths, name=name, **columns, on_corrupt=config.on_corrupt)
    elif kind == "video":
        stride = config.frame_stride
        source = ClipSource(root, frame_stride=stride, on_corrupt=config.on_corrupt, fewest_classes=fewest)
    else:
        source = FolderSource(root, on_corrupt=config.on_corrupt, fewest_classes=fewest)
    log.info("%s: %s", source.name, source.listing)
    return source
