"""A list of image files, or a single one, as a data set."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flsl_jax.data.images.listing import NAMED_FORMATS, Listing, problem_of
from flsl_jax.data.records import digest_of
from flsl_jax.data.sources.files import FilesSource, class_numbers, classes_of_folders, without_common_folders
from flsl_jax.data.sources.list_files import Entry, read_list, spelled
from flsl_jax.errors import UserError, one_line

# So many files that are not there never refuse a list, as so many damaged ones never end a run.
_FEW = 20
# Files are looked up by so many threads, so many at a time: a network's file system takes its time to answer.
_THREADS, _BLOCK = 16, 1000


class ListSource(FilesSource):
    """The image files that a file names, in its order; each once.

    Relative paths begin at the list's folder. A name is the path below that folder, or the absolute one of a file elsewhere.
    Files that are not there are passed over and counted. The bytes decide how a file is read, not its suffix. Labels are those
    of the list, in the order of numbers or words, or the first folders of the paths if the list has none.

    Args:
        path: the list; see `read_list`.
        image_column, label_column: see `read_list`.
        on_corrupt: "fail" refuses a list that names a file that is not there.
        max_corrupt_share: of the list's files; if more, and more than 20, are not there, the list is refused.

    Raises:
        UserError: the list cannot be read, or too many of its files are not there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image_column: str = "",
        label_column: str = "",
        on_corrupt: str = "replace",
        max_corrupt_share: float = 1.0,
    ) -> None:
        entries = read_list(Path(path), image_column=image_column, label_column=label_column)
        folder = os.path.dirname(os.path.abspath(path))
        found, missing = _present(entries, folder=folder)
        found, remarks = _each_once(found)
        _check(
            missing,
            len(found) + len(missing),
            path=os.fspath(path),
            folder=folder,
            on_corrupt=on_corrupt,
            share=max_corrupt_share,
        )
        paths = [os.fsencode(entry.path) for entry in found]
        class_names, labels = class_numbers([entry.label for entry in found])
        if not class_names:
            class_names, labels = classes_of_folders(without_common_folders(paths))
        listing = Listing(
            paths=paths, formats=_formats(found), others=Counter(), hidden=0, unusable=missing, remarks=remarks
        )
        super().__init__(name=os.fspath(path), folder=folder, listing=listing, labels=labels, class_names=class_names)

    @property
    def digest(self) -> str:
        """Of the paths, those of files elsewhere without the folder that all of them share; the files are not read."""
        paths = [self._names[index] for index in range(len(self))]
        elsewhere = [os.path.dirname(path) for path in paths if os.path.isabs(path)]
        common = os.path.commonpath(elsewhere) if elsewhere else ""
        shared = len(common.rstrip(os.sep)) + 1
        return digest_of("list", *(os.fsencode(path[shared:] if os.path.isabs(path) else path) for path in paths))


class OneImage(FilesSource):
    """A single image file; its name is the file's."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder, name = os.path.split(os.path.abspath(path))
        listing = Listing(
            paths=[os.fsencode(name)], formats=Counter([_format(name)]), others=Counter(), hidden=0, unusable=()
        )
        super().__init__(name=os.fspath(path), folder=folder, listing=listing)


def _each_once(entries: Sequence[Entry]) -> tuple[list[Entry], tuple[str, ...]]:
    """The first entry of each file, and what is said of the others."""
    once: dict[str, Entry] = {}
    again = [entry.path for entry in entries if once.setdefault(entry.path, entry) is not entry]
    if not again:
        return list(once.values()), ()
    more = ", …" if len(again) > 1 else ""
    return list(once.values()), (f"{len(again):,} named before ({one_line(again[0])}{more})",)


def _present(entries: Sequence[Entry], *, folder: str) -> tuple[list[Entry], tuple[tuple[str, str], ...]]:
    """The entries whose files are there, by their names in the data set; and the others, with what is there instead."""
    blocks = [entries[start : start + _BLOCK] for start in range(0, len(entries), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        looked_up = threads.map(lambda block: [_placed(entry, folder=folder) for entry in block], blocks)
        placed = [pair for block in looked_up for pair in block]
    found = [entry for entry, problem in placed if not problem]
    missing = {one_line(entry.path): problem for entry, problem in placed if problem}
    return found, tuple(missing.items())


def _placed(entry: Entry, *, folder: str) -> tuple[Entry, str]:
    name = spelled(entry.path, folder=folder)
    problem = problem_of(os.path.join(folder, name))
    if problem and "\\" in name:  # a list that was made on Windows
        other = spelled(entry.path.replace("\\", "/"), folder=folder)
        if not problem_of(os.path.join(folder, other)):
            return Entry(other, entry.label), ""
    return Entry(name, entry.label), problem


def _check(
    missing: Sequence[tuple[str, str]], total: int, *, path: str, folder: str, on_corrupt: str, share: float
) -> None:
    if not missing:
        return
    name, problem = missing[0]
    if ":/" in name:
        problem += "; a list names files, not addresses"
    such = f"{len(missing):,} of its {total:,} files are not there, such as {name} ({problem})"
    where = f"relative paths begin at {folder}"
    if len(missing) == total:
        raise UserError(f"{path}: {such}; {where}: mend the paths, or move the list")
    if on_corrupt == "fail":
        raise UserError(
            f"{path}: {such}; {where}; mend the list, or set on_corrupt=replace to pass over what is not there"
        )
    if len(missing) > _FEW and len(missing) > share * total:
        raise UserError(
            f"{path}: {such}, more than max_corrupt_share={share:g} allows; {where}; mend the list, or raise that share"
        )


def _formats(entries: Sequence[Entry]) -> Counter[str]:
    return Counter(_format(entry.path) for entry in entries)


def _format(path: str) -> str:
    suffix = os.path.splitext(path)[1].lower()
    return NAMED_FORMATS.get(suffix, f"named {one_line(suffix)}" if suffix else "without suffix")
