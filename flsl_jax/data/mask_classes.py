"""Class ids of masks to dense labels, and files that name the ids."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer

from flsl_jax.errors import UserError

IGNORED = -1
_UNKNOWN = -2


class MaskClasses:
    """Ids in their order become labels 0, 1, …; ignored ones become -1.

    Args:
        names: of the ids, 0 or more.
        ignore: ids that are no class; they need no name.

    Raises:
        UserError: no class is left.
    """

    def __init__(self, names: Mapping[int, str], *, ignore: tuple[int, ...]) -> None:
        ids = [number for number in sorted(names) if number not in ignore]
        if not ids:
            raise UserError(f"masks: all {len(names)} classes are ignored (ignore = {ignore}); leave at least one")
        self.names = tuple(names[number] for number in ids)
        self._table = np.full(max([*ids, *ignore, 0]) + 1, _UNKNOWN, np.int32)
        self._table[ids] = np.arange(len(ids), dtype=np.int32)
        self._table[[number for number in ignore if number >= 0]] = IGNORED

    def labels(self, ids: Integer[np.ndarray, "H W"], *, file: str | os.PathLike[str]) -> Int32[np.ndarray, "H W"]:
        """The labels of a mask's ids; an id of -1 stays -1.

        Raises:
            UserError: an id is neither a class nor ignored.
        """
        ids = ids.astype(np.int32)
        known = np.where(ids < 0, IGNORED, self._table[np.clip(ids, 0, len(self._table) - 1)])
        wrong = (known == _UNKNOWN) | (ids >= len(self._table)) | (ids < IGNORED)
        if wrong.any():
            raise UserError(
                f"mask {file}: {int(wrong.sum())} pixels have an id that is no class, such as {int(ids[wrong][0])}; name it "
                "in the class file, or add it to ignore"
            )
        return known


def read_class_names(path: Path) -> dict[int, str]:
    """Names by id from a JSON file, a mapping of ids to names or a list of names from id 0 on, or from the tab-separated
    objectInfo150.txt that comes with ADE20K (columns Idx and Name).

    Raises:
        UserError: it cannot be read as one of these.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            content = json.loads(text)
            items = content.items() if isinstance(content, dict) else enumerate(content)
            names = {int(number): str(name) for number, name in items}
        else:
            header, *lines = (line.split("\t") for line in text.splitlines() if line.strip())
            columns = [name.strip() for name in header]
            number, name = columns.index("Idx"), columns.index("Name")
            names = {int(line[number]): line[name].strip() for line in lines}
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f'classes {path}: expected JSON such as {{"1": "person"}}, or ADE20K\'s objectInfo150.txt '
            f"({type(error).__name__}: {error})"
        ) from error
    if not names or min(names) < 0 or max(names) > 65535:
        raise UserError(f"classes {path}: expected ids from 0 to 65535, at least one")
    return names
