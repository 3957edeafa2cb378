"""What can be seen of a checkpoint without reading its arrays: whether it is whole, and what it says of its run."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Orbax writes this file when everything else is written.
MARK = "_CHECKPOINT_METADATA"
# Folders of a checkpoint: the arrays, the description of the run, and the digests of both.
STATE, RUN, DIGESTS = "state", "run", "digests"
_METRICS = "metrics"
# Orbax's mark in every folder, which is a line of text.
_FOLDER_MARK = "commit_success.txt"


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be used. `step`: its step; the message: what is wrong with it, as a part of one line."""

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(problem)
        self.step = step


@dataclasses.dataclass(frozen=True)
class Digests:
    """What verifies a checkpoint: `run` of the description, `arrays` by name, two numbers below 2^32 each."""

    run: str
    arrays: Mapping[str, tuple[int, int]]


def inspect(checkpoint: Path) -> None:
    """Looks at the files of a folder `checkpoints/STEP`. It is quick: the arrays are not read.

    Raises:
        DamagedCheckpoint: something is missing, empty, or not what it should be.
        OSError: the folder cannot be read.
    """
    step = int(checkpoint.name)
    if not checkpoint.is_dir():
        raise DamagedCheckpoint(step, "it is not a folder")
    if not any(checkpoint.iterdir()):
        raise DamagedCheckpoint(step, "the folder is empty")
    if not (checkpoint / MARK).exists():
        raise DamagedCheckpoint(step, f"it has no commit mark ({MARK}), so it is incomplete")
    read_description(checkpoint)
    state = checkpoint / STATE
    for path in (state / "_METADATA", *_files(state / "array_metadatas"), *_files(checkpoint / _METRICS)):
        _read_object(path, checkpoint=checkpoint)
    for path in (state / "manifest.ocdbt", *_files(state / "d"), *sorted(state.glob("ocdbt.process_*/d/*"))):
        if not path.exists() or not path.stat().st_size:
            raise DamagedCheckpoint(
                step, f"{path.relative_to(checkpoint)} is {'empty' if path.exists() else 'missing'}"
            )


def check_index(checkpoint: Path) -> None:
    """Reads what the database of arrays in `checkpoints/STEP` says of them: a damaged index is found here, one read at a time.

    Raises:
        DamagedCheckpoint: an array is not listed or has no shape.
        ValueError: the database cannot be read, as tensorstore has it.
    """
    import tensorstore

    tree = _read_object(checkpoint / STATE / "_METADATA", checkpoint=checkpoint)
    files = {"driver": "file", "path": f"{checkpoint.absolute() / STATE}/"}
    database = tensorstore.KvStore.open({"driver": "ocdbt", "base": files}).result()
    listed = {key.decode() for key in database.list().result()}
    for leaf in tree["tree_metadata"].values():
        if leaf["value_metadata"].get("skip_deserialize"):  # a part without arrays
            continue
        name = ".".join(str(part["key"]) for part in leaf["key_metadata"])
        key = f"{name}/.zarray"
        if key not in listed:
            raise DamagedCheckpoint(int(checkpoint.name), f"{name} is missing in its index")
        json.loads(database.read(key).result().value)


def read_description(checkpoint: Path) -> dict[str, Any]:
    """What was saved as `run` with a checkpoint, a folder `checkpoints/STEP`.

    Raises:
        DamagedCheckpoint: it is missing, cut off, or not what was saved.
        OSError: it cannot be read.
    """
    step = int(checkpoint.name)
    files = _files(checkpoint / RUN)
    if not files:
        raise DamagedCheckpoint(step, f"{RUN}/metadata is missing")
    description = _read_object(files[0], checkpoint=checkpoint)
    written = read_digests(checkpoint)
    if written is not None and written.run != digest_of_description(description):
        raise DamagedCheckpoint(step, f"{files[0].relative_to(checkpoint)} is not as it was saved")
    return description


def read_digests(checkpoint: Path) -> Digests | None:
    """The digests that were written with a checkpoint, summed over the processes; None if it is from before there were any.

    Raises:
        DamagedCheckpoint: they are missing or damaged.
        OSError: they cannot be read.
    """
    written = _read_object(checkpoint / MARK, checkpoint=checkpoint).get("item_handlers") or {}
    if DIGESTS not in written:
        return None
    run, arrays = "", {}
    for path in _files(checkpoint / DIGESTS):
        values = _read_object(path, checkpoint=checkpoint)
        try:
            run = values["run"] or run
            for name, (first, second) in values["arrays"].items():
                before = arrays.get(name, (0, 0))
                arrays[name] = ((before[0] + int(first)) % 2**32, (before[1] + int(second)) % 2**32)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedCheckpoint(int(checkpoint.name), f"{path.relative_to(checkpoint)} is damaged") from error
    return Digests(run=run, arrays=arrays)


def digest_of_description(description: Any) -> str:
    """SHA-256 of a description, however its JSON is laid out."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in paths if path.is_file() and path.name != _FOLDER_MARK]


def _read_object(path: Path, *, checkpoint: Path) -> dict[str, Any]:
    step, name = int(checkpoint.name), path.relative_to(checkpoint)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpoint(step, f"{name} is missing") from error
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise DamagedCheckpoint(step, f"{name} is damaged") from error
    if not isinstance(values, dict):
        raise DamagedCheckpoint(step, f"{name} is damaged")
    return values
