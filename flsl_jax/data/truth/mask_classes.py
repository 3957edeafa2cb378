"""From the class ids of masks to dense labels, and the files that name the ids."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer

from flsl_jax.data.annotation_files import load_json
from flsl_jax.data.records import digest_of
from flsl_jax.data.truth.known_classes import KNOWN_CLASSES
from flsl_jax.errors import UserError

IGNORED = -1
# The largest id of a class: masks have 8 or 16 bits.
LARGEST_ID = 65535
_UNKNOWN = -2


class MaskClasses:
    """The mapping from ids to labels: sorted ids become 0, 1, …, and ignored ids become -1.

    Args:
        names: the name of each id; ids are 0 or more.
        ignore: ids that are not classes; they need no name.
        merged: whether ids of one name are one class, in the order of the lowest.

    Raises:
        UserError: every class is ignored.
    """

    def __init__(self, names: Mapping[int, str], *, ignore: tuple[int, ...], merged: bool = False) -> None:
        ids = [number for number in sorted(names) if number not in ignore]
        if not ids:
            raise UserError(f"masks: all {len(names)} classes are ignored (ignore = {ignore}); leave at least one")
        self.names = tuple(names[number] for number in ids)
        labels = list(range(len(ids)))
        if merged:
            self.names = tuple(dict.fromkeys(self.names))
            labels = [self.names.index(names[number]) for number in ids]
        self._table = np.full(max([*ids, *ignore, 0]) + 1, _UNKNOWN, np.int32)
        self._table[ids] = labels
        self._table[[number for number in ignore if number >= 0]] = IGNORED

    @property
    def digest(self) -> str:
        """SHA-256 of the label of each id and of the labels' names; hexadecimal."""
        return digest_of(self._table.tobytes(), *self.names)

    def labels(self, ids: Integer[np.ndarray, "H W"], *, file: str | os.PathLike[str]) -> Int32[np.ndarray, "H W"]:
        """The labels of a mask's ids; an id of -1 stays -1. `file` is the mask's name for messages.

        Raises:
            UserError: an id is neither a class nor ignored.
        """
        ids = ids.astype(np.int32)
        known = np.where(ids < 0, IGNORED, self._table[np.clip(ids, 0, len(self._table) - 1)])
        wrong = (known == _UNKNOWN) | (ids >= len(self._table)) | (ids < IGNORED)
        if wrong.any():
            raise UserError(
                f"mask {file}: {int(wrong.sum())} pixels have an id that is not a class, such as {int(ids[wrong][0])}; name it "
                "in the class file, or add it to ignore"
            )
        return known


def read_class_names(path: Path) -> dict[int, str]:
    """Reads the names of class ids.

    The file is JSON, either a mapping from ids to names or a list of names that starts at id 0; or it is the tab-separated
    objectInfo150.txt that comes with ADE20K (columns Idx and Name).

    Raises:
        UserError: the file is neither of these, or an id is not in 0 … 65535.
    """
    try:
        if path.suffix.lower() == ".json":
            content = load_json(path)
            items = content.items() if isinstance(content, dict) else enumerate(content)
            names = {int(number): str(name) for number, name in items}
        else:
            text = path.read_text(encoding="utf-8-sig")
            header, *lines = (line.split("\t") for line in text.splitlines() if line.strip())
            columns = [name.strip() for name in header]
            number, name = columns.index("Idx"), columns.index("Name")
            names = {int(line[number]): line[name].strip() for line in lines}
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f'classes {path}: expected JSON such as {{"1": "person"}}, ADE20K\'s objectInfo150.txt, or one of '
            f"{', '.join(KNOWN_CLASSES)} ({type(error).__name__}: {error})"
        ) from error
    if not names or min(names) < 0 or max(names) > LARGEST_ID:
        raise UserError(f"classes {path}: expected ids from 0 to {LARGEST_ID}, at least one")
    return names
