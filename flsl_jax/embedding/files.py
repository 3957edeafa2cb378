"""The files of a shard: each is written under a temporary name first, so that what has its final name is whole."""

import contextlib
import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.embedding.shards import Shard
from flsl_jax.errors import require_packages

# What numbers an array among those of all tables: `patch`, but `cluster_mean`.
_PREFIXES = {"images": "", "patches": "patch_", "clusters": "cluster_"}
_BOX = ("left", "top", "right", "bottom")
TEMPORARY = ".unfinished-"


def check_format(name: str) -> None:
    """Checks that a format's package is installed.

    Raises:
        UserError: it is not.
    """
    if name == "parquet":
        require_packages("pyarrow", "pyarrow.parquet", install="pip install pyarrow, or choose another --format")


def write_shard(folder: Path, number: int, shard: Shard, *, format: str) -> dict[str, int]:
    """Writes a shard into a folder.

    Returns:
        The bytes of each file, by its name.

    Raises:
        OSError: a file cannot be written.
    """
    return {name: _write_whole(folder / name, write) for name, write in _files(shard, number, format=format)}


def arrays_of(shard: Shard) -> dict[str, np.ndarray]:
    """All arrays of a shard under one name each, as `docs/features.md` lists them."""
    arrays = {}
    for table, columns in shard.tables.items():
        for name, values in columns.items():
            prefix = "" if table == "patches" and name in ("patch", "mode", "cluster") else _PREFIXES[table]
            arrays["cluster_number" if (table, name) == ("clusters", "cluster") else prefix + name] = values
    return arrays


def _files(shard: Shard, number: int, *, format: str) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """Names of files, each with what writes it."""
    if format == "npz":
        yield f"shard-{number:05d}.npz", lambda path: _save_npz(path, arrays_of(shard))
    elif format == "npy":
        for name, values in arrays_of(shard).items():
            yield f"{name}-{number:05d}.npy", lambda path, values=values: _save_npy(path, values)
    else:
        write = _write_parquet if format == "parquet" else _write_csv
        names = shard.images.get("name", np.array([], np.str_))
        for table, columns in shard.tables.items():
            own = columns if table == "images" else {**columns, "image": names[columns["image"]]}
            yield f"{table}-{number:05d}.{format}", lambda path, own=own: write(path, own)


def _write_whole(path: Path, write: Callable[[Path], Any]) -> int:
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        write(temporary)
        size = temporary.stat().st_size
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return size


def _save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # given a name, NumPy would add a suffix
        np.savez(file, allow_pickle=False, **arrays)


def _save_npy(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, values)


def _write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = {}
    for name, values in _flat(columns).items():
        if values.ndim == 1:
            table[name] = pyarrow.array(values)
        else:
            table[name] = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])
    pyarrow.parquet.write_table(pyarrow.table(table), path)


def _write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    flat = _flat(columns)
    header, texts = [], []
    for name, values in flat.items():
        if values.ndim == 1:
            header.append(name)
            texts.append([_text(value) for value in values])
        else:
            header += [f"{name}_{channel}" for channel in range(values.shape[1])]
            texts += [[_text(value) for value in channel] for channel in values.T]
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(zip(*texts))


def _text(value: Any) -> str:
    """The shortest text that reads back as the same number."""
    return np.format_float_positional(value, trim="-") if isinstance(value, np.floating) else str(value)


def _flat(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of a table: the four sides of boxes by their names, other vectors as they are."""
    flat = {}
    for name, values in columns.items():
        if name == "box":
            flat |= {side: values[:, place] for place, side in enumerate(_BOX)}
        else:
            flat[name] = values
    return flat
