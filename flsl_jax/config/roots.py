"""Several folders or files in one text: what the key `root` of a source names."""

import ast
import glob
import os
import re
from collections.abc import Iterable

from flsl_jax.errors import UserError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# A range of numbers that names more files than this is a slip of the finger.
_MOST = 1_000_000


def split_roots(text: str) -> list[str]:
    """The folders and files that a text names.

    A text that exists as it stands is one path, whatever characters it has. Otherwise commas separate paths, in brackets or
    not; `["a, b", "c"]` quotes paths that have commas themselves. A path that does not exist stands for several where it has
    a range of numbers, `train-{0000..0146}.tar`, or `*`, `?` or `[…]` as in a shell, sorted by name.

    Raises:
        UserError: a pattern fits nothing, a range is too long, or a path is named twice.
    """
    if os.path.exists(text):
        return [text]
    roots = [path for part in written_roots(text) for path in _expanded(part)]
    seen: set[str] = set()
    for root in roots:
        place = os.path.realpath(root)
        if place in seen:
            raise UserError(f"{root} is named twice among the roots {text}; name each once")
        seen.add(place)
    return roots


def join_roots(paths: Iterable[str]) -> str:
    """One text from which `split_roots` gives these paths."""
    paths = list(paths)
    if len(paths) > 1 and any(set(",[](){}'\"*?") & set(path) for path in paths):
        return repr(paths)
    return ",".join(paths)


def root_names(roots: list[str]) -> list[str]:
    """A short name for each path: its last part, or so many more parts that no two are alike."""
    parts = [os.path.abspath(root).strip(os.sep).split(os.sep) for root in roots]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(roots)


def written_roots(text: str) -> list[str]:
    """The paths and patterns in a text as they are written; nothing is looked up on the disk."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None
    if isinstance(value, list | tuple):
        return [str(item) for item in value if str(item).strip()]
    stripped = text.strip()
    if stripped[:1] + stripped[-1:] in ("[]", "()"):
        stripped = stripped[1:-1]
    return [part.strip() for part in stripped.split(",") if part.strip()]


def _expanded(path: str) -> list[str]:
    """The paths that one stands for; a plain one is not looked up, so that whoever opens it can say what is wrong."""
    if os.path.exists(path):
        return [path]
    found = _RANGE.search(path)
    if found is not None:
        first, last, width = int(found[1]), int(found[2]), len(found[1])
        if not 0 <= last - first < _MOST:
            raise UserError(f"{path}: a range of numbers goes from the smaller to the larger one, such as {{000..146}}")
        numbers = [f"{number:0{width}d}" for number in range(first, last + 1)]
        return [each for number in numbers for each in _expanded(path[: found.start()] + number + path[found.end() :])]
    if not glob.has_magic(path):
        return [path]
    matching = sorted(glob.glob(path))
    if not matching:
        raise UserError(f"{path} fits no file or folder; mend the pattern")
    return matching
