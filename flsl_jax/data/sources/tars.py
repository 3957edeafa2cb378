"""Images in tar files that stay packed: WebDataset's layout, or any folder put into a tar file."""

import json
import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from flsl_jax.config.roots import root_names
from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.images.listing import NAMED_FORMATS, Listing, open_file
from flsl_jax.data.records import Record, checked_index, digest_of
from flsl_jax.data.sources.files import PackedNames, class_numbers, classes_of_folders, without_common_folders
from flsl_jax.data.sources.kinds import TAR_SUFFIXES
from flsl_jax.data.sources.tar_index import Member, TarIndex, index_of
from flsl_jax.errors import UserError, first_line, one_line

log = logging.getLogger(__name__)

# So many tar files are held open, in every worker.
_OPEN_FILES = 64
# Headers of so many tar files are read at a time: most of it is waiting for the disk.
_THREADS = 8


class TarSource:
    """The images in tar files, in the order of the files, read where they lie.

    Members of one name up to the first dot of the file's name are a sample, as in WebDataset: `a/7.jpg` beside `a/7.cls` or
    `a/7.json`. Its image is the member with the suffix of an image; its label the number or word in `.cls`, or a key of
    `.json`. Without such labels, folders are classes as in a folder. A name is the member's path, below the tar file's name if
    there are several. The headers are read when the source is opened; workers get a copy of what was found.

    Args:
        paths: the tar files.
        name: for messages.
        image_column: the ending of the image's member, such as "jpg", where samples have several images.
        label_column: the key of `.json` that has the class.
        on_corrupt: "fail" refuses a tar file that is cut off; else its whole images are used.

    Raises:
        UserError: a file cannot be read, is compressed or no tar file; there is no image; or samples have several.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        name: str,
        image_column: str = "",
        label_column: str = "",
        on_corrupt: str = "replace",
    ) -> None:
        self.name, self._paths = name, tuple(map(os.path.abspath, paths))
        indices = _indices(paths, on_corrupt=on_corrupt)
        samples = _Samples(image_column, where=name)
        for number, (index, short) in enumerate(zip(indices, root_names(list(paths)))):
            samples.add(number, index, prefix=f"{short}/" if len(paths) > 1 else "")
        if not samples.images:
            raise UserError(
                f"{name} holds no image{f' that ends in .{image_column}' if image_column else ''} "
                f"({samples.others_in_words()}); name a tar file with images ({' '.join(NAMED_FORMATS)})"
            )
        self._names = PackedNames([os.fsencode(image.name) for _, image in samples.images])
        self._files = np.array([file for file, _ in samples.images], np.int32)
        self._offsets = np.array([image.offset for _, image in samples.images], np.int64)
        self._sizes = np.array([image.size for _, image in samples.images], np.int64)
        self._open, self._lock = OrderedDict[int, _Opened](), threading.Lock()
        self.class_names, self._labels = self._read_labels(samples, label_column=label_column)
        damage = tuple((os.path.basename(path), index.damage) for path, index in zip(paths, indices) if index.damage)
        self.listing = Listing(
            paths=[],
            formats=samples.formats,
            others=samples.others,
            hidden=samples.hidden,
            unusable=damage,
            remarks=samples.remarks(),
        )

    def __len__(self) -> int:
        return len(self._names)

    @property
    def digest(self) -> str:
        """Of the images' names and sizes; the images are not read."""
        return digest_of("tar", self._names.joined, self._names.ends.tobytes(), self._sizes.tobytes())

    def path(self, index: int) -> str:
        """The name of an image's member, below its tar file's name if there are several."""
        return self._names[index]

    def size(self, index: int) -> int:
        """Of an image in bytes."""
        return int(self._sizes[index])

    def label(self, index: int) -> int | None:
        """An image's label, without reading it; None without one."""
        label = -1 if self._labels is None else int(self._labels[index])
        return None if label < 0 else label

    def __getitem__(self, index: int) -> Record:
        """One image.

        Raises:
            DecodeError: the tar file is shorter than it was.
        """
        index = checked_index(index, len(self))
        image = self._read(int(self._files[index]), int(self._offsets[index]), int(self._sizes[index]))
        if len(image) < self._sizes[index]:
            raise DecodeError(
                f"{self.path(index)} in {self._paths[self._files[index]]} is cut off; the tar file has changed"
            )
        return Record(image=image, name=self.path(index), label=self.label(index))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_open", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open, self._lock = OrderedDict[int, _Opened](), threading.Lock()

    def _read(self, file: int, offset: int, size: int) -> bytes:
        """Bytes of a tar file, fewer if it ends before. Threads read side by side."""
        with self._lock:
            opened = self._open.pop(file, None) or _Opened(self._paths[file])
            self._open[file] = opened
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        parts = []
        while size > 0 and (part := os.pread(opened.number, size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def _read_labels(self, samples: "_Samples", *, label_column: str) -> tuple[tuple[str, ...], np.ndarray | None]:
        found: list[str | None] = [None] * len(samples.images)
        for number, (file, member) in samples.labels(label_column).items():
            text = self._read(file, member.offset, member.size)
            found[number] = _label_in(text, member, label_column=label_column, where=self._paths[file])
        if any(label is not None for label in found):
            return class_numbers(found)
        if label_column:
            raise UserError(
                f"{self.name}: no image has a .json beside it with a key {label_column}; leave "
                "label_column empty, or pack labels"
            )
        return classes_of_folders(without_common_folders([os.fsencode(image.name) for _, image in samples.images]))


class _Opened:
    """A file's number, which is closed once nobody reads from it any more."""

    def __init__(self, path: str) -> None:
        with open_file(path) as file:
            self.number = os.dup(file.fileno())

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Samples:
    """The images of tar files, and what lies beside each: `images` and `others` as they are found.

    Args:
        image_column: the ending of an image; empty: any that an image has.
        where: for messages.
    """

    def __init__(self, image_column: str, *, where: str) -> None:
        self.images: list[tuple[int, Member]] = []
        self.formats, self.others, self.hidden = Counter[str](), Counter[str](), 0
        self._ending, self._where = image_column.lower().removeprefix("."), where
        self._beside: dict[int, tuple[int, dict[str, Member]]] = {}
        self._passed: list[str] = []

    def add(self, file: int, index: TarIndex, *, prefix: str) -> None:
        """Takes the members of a tar file."""
        groups: dict[tuple[str, str], list[tuple[str, Member]]] = {}
        for member in index.members:
            if member.name.startswith(".") or "/." in member.name:
                self.hidden += 1
                continue
            folder, _, base = member.name.rpartition("/")
            key, _, ending = base.partition(".")
            groups.setdefault((folder, key), []).append((ending.lower(), member))
        for members in groups.values():
            images = self._chosen([(ending, member) for ending, member in members if self._is_image(ending)])
            beside = {ending: member for ending, member in members if ending in ("cls", "json")}
            for ending, member in images:
                if beside and len(images) == 1:
                    self._beside[len(self.images)] = (file, beside)
                self.images.append((file, Member(prefix + member.name, member.offset, member.size)))
                self.formats[NAMED_FORMATS.get(_suffix(ending), f"named .{ending}")] += 1
            taken = {id(member) for _, member in images} | {id(member) for member in beside.values() if images}
            for ending, member in members:
                if id(member) not in taken:
                    self._pass_over(ending, member)

    def _is_image(self, ending: str) -> bool:
        return ending == self._ending if self._ending else _suffix(ending) in NAMED_FORMATS

    def _chosen(self, images: list[tuple[str, Member]]) -> list[tuple[str, Member]]:
        """The images of one group that are records: that with a plain ending, if there is one; else all."""
        plain = [(ending, member) for ending, member in images if "." not in ending]
        if len(plain) > 1 and len({ending for ending, _ in plain}) > 1:
            names = ", ".join(member.name for _, member in plain)
            raise UserError(
                f"{self._where}: a sample has several images ({names}); name the ending of one by image_column, such as "
                f"image_column={plain[0][0]}"
            )
        return plain or images

    def _pass_over(self, ending: str, member: Member) -> None:
        if _suffix(ending) in NAMED_FORMATS:
            self._passed.append(member.name)
        else:
            self.others[_suffix(ending)] += 1

    def remarks(self) -> tuple[str, ...]:
        """What of the images was passed over, in words."""
        if not self._passed:
            return ()
        return (f"{len(self._passed):,} other images of samples, such as {one_line(self._passed[0])}",)

    def others_in_words(self) -> str:
        """What there is instead of images."""
        passed = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in self.others.most_common(5)]
        return ", ".join([*passed, *self.remarks()]) or "it is empty"

    def labels(self, label_column: str) -> dict[int, tuple[int, Member]]:
        """The members that have labels, each with its tar file, by the number of the image."""
        kind = "json" if label_column else "cls"
        return {number: (file, beside[kind]) for number, (file, beside) in self._beside.items() if kind in beside}


def _suffix(ending: str) -> str:
    last = ending.rpartition(".")[2]
    return f".{last}" if last else ""


def tar_files(root: str) -> list[str]:
    """The tar files that a root names: itself, or those below it, at any depth, sorted.

    Raises:
        UserError: a folder holds none.
    """
    if not os.path.isdir(root):
        return [root]
    found = sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(TAR_SUFFIXES) and not name.startswith(".")
    )
    if not found:
        raise UserError(f"{root} holds no tar file (.tar, at any depth); name one, or a folder of them")
    return found


def _indices(paths: Sequence[str], *, on_corrupt: str) -> list[TarIndex]:
    """The indices of all files; with progress, because headers lie all over them."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(
            tqdm(threads.map(index_of, paths), total=len(paths), desc="tar files", unit="file", delay=2, disable=None)
        )
    for path, index in zip(paths, found):
        if index.damage and on_corrupt == "fail":
            raise UserError(f"{path}: {index.damage}; copy it again, or set on_corrupt=replace to use what is whole")
        if index.damage:
            log.warning("WARNING: %s: %s; the rest is left out", path, one_line(index.damage))
    return found


def _label_in(content: bytes, member: Member, *, label_column: str, where: str) -> str | None:
    """The class in a .cls or .json member; None where it has none.

    Raises:
        UserError: it is something else.
    """
    try:
        text = content.decode().strip()
        if not label_column:
            return text or None
        value = json.loads(text)[label_column]
        if not isinstance(value, str | int | None):
            raise ValueError(f"{label_column} is {value!r}")
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{where}: {member.name} has no class ({type(error).__name__}: {first_line(error)}); mend it, or name another key "
            "by label_column"
        ) from error
    return None if value is None or value == "" else str(value)
