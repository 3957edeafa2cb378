"""Which files below a folder are images, and what is passed over there and why."""

import dataclasses
import os
import stat
from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO

from flsl_jax.data.images import heif
from flsl_jax.data.images.dicom import HEAD_BYTES, is_dicom
from flsl_jax.data.images.heif import HEIC
from flsl_jax.errors import UserError, one_line

# The suffixes of image files, in any case of letters, and the formats that they stand for.
NAMED_FORMATS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WebP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".avif": "AVIF", ".heic": HEIC, ".heif": HEIC,
}  # fmt: skip
# Formats that are often something else than photos: below a folder they are images if no file there has another format.
RARE_FORMATS = {".npy": "NumPy", ".dcm": "DICOM", ".dicom": "DICOM", ".gif": "GIF"}
IMAGE_SUFFIXES = (*NAMED_FORMATS, *RARE_FORMATS)
# Scanners write DICOM without a suffix, or with the number of a slice for one; Siemens' is .ima. The bytes decide.
_DICOM_SUFFIXES = (b"", b".ima")
_NO_IMAGE = b"DICOMDIR"
_SUFFIXES = tuple(suffix.encode() for suffix in NAMED_FORMATS)
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
# How many suffixes and unusable files a description names.
_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies below a folder.

    `paths`: relative paths of the images, sorted by their bytes. `formats`: how many there are of each format, by their
    suffixes. `others`: how many files have which other suffix. `hidden`: files and folders whose name begins with a dot.
    `unusable`: relative paths of what has the name of an image, or of a folder, but is neither, each with what it is.
    `remarks`: what else was passed over, in words.
    """

    paths: list[bytes]
    formats: Counter[str]
    others: Counter[str]
    hidden: int
    unusable: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...] = ()

    @property
    def has_passed_over(self) -> bool:
        """Whether there is anything but images."""
        return bool(self.unusable or self.others or self.hidden or self.remarks)

    def __str__(self) -> str:
        """Images by format, and what is passed over, in one line."""
        passed = [f"{name} ({kind})" for name, kind in self.unusable[:_NAMED]]
        if len(self.unusable) > _NAMED:
            passed.append(f"{len(self.unusable) - _NAMED:,} more that are no files")
        if self.others:
            ordered = sorted(self.others.items(), key=lambda item: (-item[1], item[0]))
            kinds = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in ordered[:_NAMED]]
            kinds += [f"{sum(count for _, count in ordered[_NAMED:]):,} others"] if len(ordered) > _NAMED else []
            passed.append(f"files that are no images by their names ({', '.join(kinds)})")
        if self.hidden:
            passed.append(f"{self.hidden:,} hidden")
        passed += self.remarks
        found = ", ".join(f"{count:,} {name}" for name, count in self.formats.most_common()) or "none"
        return f"images: {found}; passed over: {', '.join(passed) or 'nothing'}"


def joined(listings: Sequence[Listing], *, names: Sequence[str]) -> Listing:
    """What lies below several folders together; `names` stand before the paths of unusable files."""
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for listing in listings:
        counts[0].update(listing.formats)
        counts[1].update(listing.others)
    return Listing(
        paths=[],
        formats=counts[0],
        others=counts[1],
        hidden=sum(listing.hidden for listing in listings),
        unusable=tuple((f"{name}/{path}", kind) for name, each in zip(names, listings) for path, kind in each.unusable),
        remarks=tuple(remark for listing in listings for remark in listing.remarks),
    )


def list_images(root: str) -> Listing:
    """All image files below `root`, at any depth.

    Arrays (`.npy`), GIF and DICOM files, the last ones also without a suffix, are images if there are no others. HEIC files are
    where pillow-heif is installed. Links are followed, each folder once. What is no regular file is never opened: a FIFO, a
    socket or a device could make a reader wait for ever.

    Raises:
        UserError: `root` or a folder below it cannot be read.
    """
    if not root:
        raise UserError("config.data.root is empty; name the folder that holds the images")
    found = Listing(paths=[], formats=Counter(), others=Counter(), hidden=0, unusable=())
    hidden, unusable, others = 0, list[tuple[str, str]](), list[bytes]()
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
                    path = folder + entry.name
                    if entry.name.startswith(b"."):
                        hidden += 1
                    elif _is_folder(entry):
                        folders.append(path + b"/")
                    else:
                        problem = _add_file(entry, path, found, others)
                        unusable += [(one_line(os.fsdecode(path)), problem)] if problem else []
        except OSError as error:
            where = one_line(os.path.join(root, os.fsdecode(folder)) if folder else root)
            raise UserError(f"{where} cannot be read ({error.strerror}); name a folder of images") from error
    remarks = _without_heic(found)
    _add_others(others, found, root=root)
    found.paths.sort()
    return dataclasses.replace(found, hidden=hidden, unusable=tuple(sorted(unusable)), remarks=remarks)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, or to where nobody may look
        return False


def _without_heic(found: Listing) -> tuple[str, ...]:
    """Takes HEIC files out again where nothing can read them, and says so."""
    count = found.formats[HEIC]
    if not count or heif.is_installed():
        return ()
    del found.formats[HEIC]
    heic = tuple(suffix.encode() for suffix, name in NAMED_FORMATS.items() if name == HEIC)
    found.paths[:] = [path for path in found.paths if not path.lower().endswith(heic)]
    return (f"{count:,} {HEIC}, which {heif.INSTALL} reads",)


def _add_others(others: Sequence[bytes], found: Listing, *, root: str) -> None:
    """Counts the other files: those of rare formats as images if there are no others."""
    alone = not found.paths
    for path in others:
        suffix = os.path.splitext(path.lower())[1]
        name = RARE_FORMATS.get(os.fsdecode(suffix)) if alone else None
        if name is None and alone and _is_bare_dicom(root, path, suffix):
            name = RARE_FORMATS[".dcm"]
        if name is None:
            found.others[one_line(os.fsdecode(suffix))] += 1
        else:
            found.paths.append(path)
            found.formats[name] += 1


def _is_bare_dicom(root: str, path: bytes, suffix: bytes) -> bool:
    """Whether a file whose name does not say so is DICOM by its first bytes."""
    bare = suffix in _DICOM_SUFFIXES or suffix[1:].isdigit()
    return (
        bare and os.path.basename(path).upper() != _NO_IMAGE and begins_as_dicom(os.path.join(os.fsencode(root), path))
    )


def begins_as_dicom(path: str | bytes) -> bool:
    """Whether a file can be read and begins as DICOM does."""
    try:
        with open_file(path) as file:
            return is_dicom(file.read(HEAD_BYTES))
    except OSError:
        return False


def _add_file(entry: os.DirEntry[bytes], path: bytes, found: Listing, others: list[bytes]) -> str:
    """Counts a file, and keeps its path if it is an image; otherwise says what it is, if it should have been one."""
    suffix = os.path.splitext(entry.name.lower())[1]
    named_image = suffix in _SUFFIXES
    problem = _problem(entry)
    # A link without a suffix may be a folder of images that is gone.
    if problem and (named_image or (not suffix and entry.is_symlink())):
        return problem
    if named_image:
        found.paths.append(path)
        found.formats[NAMED_FORMATS[suffix.decode()]] += 1
    elif not problem:
        others.append(path)
    else:
        found.others[one_line(os.fsdecode(suffix))] += 1
    return ""


def problem_of(path: str) -> str:
    """What is at a path instead of a regular file; empty for a regular file. Nothing is opened."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "not there"
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        return str(getattr(error, "strerror", None) or error)
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def _problem(entry: os.DirEntry[bytes]) -> str:
    """What is there instead of a regular file; empty for a regular file. Only links and special files cost a call."""
    try:
        if entry.is_file():
            return ""
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing"
    except OSError as error:
        return f"a link that cannot be followed: {error.strerror}" if entry.is_symlink() else str(error.strerror)
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def open_file(path: str | bytes | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file for reading. A FIFO is not waited for, and a device not read.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise OSError(f"{one_line(os.fsdecode(path))} is {_KINDS.get(kind, 'no file')}, not an image")
    return open(number, "rb")


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as file:
        return file.read()
