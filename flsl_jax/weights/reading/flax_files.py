"""The `.npz` files of Google's vision transformers: Flax's names and axes, brought to those of torch."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError, reason
from flsl_jax.weights.reading.weight_file import WeightFile

_LEAVES = {"kernel": "weight", "scale": "weight"}
_SCANNED = re.compile(r"(^|\.)encoderblock\.")


def is_npz(names: list[str]) -> bool:
    """Whether a zip archive with these names is one of NumPy's."""
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> WeightFile:
    """The arrays of a `.npz` file; slashes in names become dots, and layers have torch's axes.

    A kernel becomes a weight: (inputs, outputs) is turned, a convolution's (y, x, inputs, outputs) too, and the heads of an
    attention are joined to one axis. Blocks that a scan has stacked along a leading axis are taken apart.

    Raises:
        UserError: the file is damaged, or an array holds Python objects.
    """
    others, arrays = [], {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                if re.match(r"opt/(?!target/)|.*optimizer", name):
                    others.append(name)
                else:
                    arrays[name.replace("/", ".")] = archive[name]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, MemoryError) as error:
        raise UserError(f"{path} is damaged, or holds Python objects ({reason(error)}); copy it again") from error
    arrays = dict(pair for item in arrays.items() for pair in _unstacked(*item))
    queries = [array for name, array in arrays.items() if name.endswith(".query.kernel") and array.ndim == 3]
    tensors = dict(_as_torch(name, array) for name, array in arrays.items())
    heads = queries[0].shape[1] if queries else None
    return WeightFile(path=path, tensors=tensors, num_heads=heads, others=tuple(others), flax=True)


def _unstacked(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if _SCANNED.search(name) and array.ndim:
        for number, part in enumerate(array):
            yield _SCANNED.sub(rf"\g<1>encoderblock_{number}.", name), part
    else:
        yield name, array


def _as_torch(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    stem, _, leaf = name.rpartition(".")
    layer = stem.rpartition(".")[2]
    if layer in ("query", "key", "value"):
        array = array.reshape(-1) if leaf == "bias" else array.reshape(len(array), -1)
    elif layer == "out" and leaf == "kernel":
        array = array.reshape(-1, array.shape[-1])
    if leaf == "kernel" and array.ndim in (2, 4):
        array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
    return f"{stem}.{_LEAVES[leaf]}" if stem and leaf in _LEAVES else name, np.ascontiguousarray(array)
