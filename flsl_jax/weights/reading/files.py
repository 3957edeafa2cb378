"""Weight files read as named NumPy arrays: safetensors, torch's own, Google's .npz, folders of timm and transformers.

No code of a file is ever run. torch is needed for its own files only, and is imported when one is read.
"""

import argparse
import contextlib
import dataclasses
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flsl_jax.errors import UserError, import_problem
from flsl_jax.weights.reading.flax_files import is_npz, read_npz
from flsl_jax.weights.reading.weight_file import WeightFile
from flsl_jax.weights.reading.weight_shards import (
    INDEX_FILES,
    read_shards,
    refuse_checkpoint_folder,
    refuse_single_shard,
)

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
_EXPECTED = "expected weights as .safetensors, as torch's .pth, .pt or .bin, or as Google's .npz"
# Top-level entries of a torch checkpoint that hold tensors but no weights.
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|rng|callbacks|loops|hyper_parameters")
# The first bytes of files that are often mistaken for weights, and what such files are.
_OTHERS = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file (llama.cpp)",
    b"version https://git-lfs": "a Git LFS pointer, whose file was never downloaded (git lfs pull)",
    b"<": "a web page or XML, not the file behind the link",
    b"\x93NUMPY": "a single NumPy array",
    b"\x1f\x8b": "a gzip archive; unpack it first",
}
_MAX_HEADER = 100_000_000


def read_weights(path: str | Path) -> WeightFile:
    """Reads a file, whose kind is recognised by its content, or a folder with config.json and the weights.

    Args:
        path: `.safetensors`; `.pth`, `.pt` or `.bin` of torch, zipped or legacy; `.npz` of Google; the `.index.json` of
            several; or a folder of timm or transformers.

    Raises:
        UserError: the file does not exist, is truncated, is of another kind, would run code, or needs torch, which is missing.
    """
    path = _file_of(Path(path))
    content = read_shards(path, _read_file) if path.name.endswith(".index.json") else _read_file(path)
    if not content.tensors:
        raise UserError(f"{path} holds no tensors, only {', '.join(content.others) or 'nothing'}; {_EXPECTED}")
    config = _read_json(path.parent / "config.json")
    return dataclasses.replace(
        content,
        config=config if config.keys() & {"model_type", "pretrained_cfg"} else {},
        preprocessor=_read_json(path.parent / "preprocessor_config.json"),
    )


def _read_file(path: Path) -> WeightFile:
    """One file, by its content."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(64)
    if _is_safetensors(start):
        content = _read_safetensors(path, size=size)
    elif start.startswith(b"PK"):
        content = read_npz(path) if is_npz(_zip_names(path)) else _read_torch(path)
    elif start.startswith(b"\x80"):
        content = _read_torch(path)
    else:
        kinds = (kind for magic, kind in _OTHERS.items() if start.lstrip().startswith(magic))
        kind = next(kinds, "empty" if not size else "not a weight file")
        truncated = f", or truncated ({size} bytes)" if path.suffix in _SUFFIXES and kind == "not a weight file" else ""
        raise UserError(f"{path} is {kind}{truncated}; {_EXPECTED}")
    return content


def _file_of(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path} does not exist; {_EXPECTED}, or a folder with config.json and {_FOLDER_FILES[0]}")
    refuse_checkpoint_folder(path)
    if not path.is_dir():
        refuse_single_shard(path)
        return path
    for name in (*_FOLDER_FILES, *INDEX_FILES):
        if (path / name).is_file():
            return path / name
    found = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{path} is a folder without weights ({found} in it); expected config.json with {' or '.join(_FOLDER_FILES)}, as "
        "timm and transformers save them, or the index of several such files"
    )


def _is_safetensors(start: bytes) -> bool:
    """Whether a file starts as safetensors do: eight bytes with the header's length, then the header, a JSON object."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _MAX_HEADER


def _read_safetensors(path: Path, *, size: int) -> WeightFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dictionary)
            return WeightFile(path=path, tensors=tensors, metadata=handle.metadata() or {})
    except SafetensorError as error:
        raise UserError(
            f"{path} is truncated or damaged ({size} bytes; safetensors says: {error}); copy it again"
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds numbers that NumPy has no type for ({error}); save it as float32, float16 or bfloat16"
        ) from error


def _zip_names(path: Path) -> list[str]:
    """The names in a zip archive; refuses those that are neither torch's nor NumPy's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{path} is truncated ({path.stat().st_size} bytes, no zip directory); copy it again"
        ) from error
    if any("/code/" in name for name in names):
        raise UserError(
            f"{path} is a TorchScript archive, which is code; save the tensors alone: torch.save(model.state_dict(), FILE)"
        )
    if not any(name.endswith("data.pkl") for name in names) and not is_npz(names):
        raise UserError(f"{path} is a zip archive, not a torch file; {_EXPECTED}")
    return names


def _read_torch(path: Path) -> WeightFile:
    try:
        import torch
    except Exception as error:  # a broken one raises many types
        problem = import_problem(error, package="torch", install="pip install torch")
        raise UserError(
            f"{path} is a torch file and {problem}, or save the file as .safetensors where torch is"
        ) from error
    with _torch_errors(path), torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise UserError(
            f"{path} holds a single {type(content).__name__}, not a dictionary of named tensors; {_EXPECTED}"
        )
    tensors, others = {}, []
    for top, value in content.items():
        found = {} if _NOT_WEIGHTS.search(str(top)) else dict(_flat_tensors(value, str(top)))
        tensors |= found
        if not found:
            others.append(str(top))
    meta = content.get("meta")
    texts = {key: value for key, value in meta.items() if isinstance(value, str)} if isinstance(meta, Mapping) else {}
    arrays = {name: _to_numpy(tensor, name, path) for name, tensor in tensors.items()}
    return WeightFile(path=path, tensors=arrays, others=tuple(others), metadata=texts)


@contextlib.contextmanager
def _torch_errors(path: Path) -> Iterator[None]:
    """Torch's message about a bad file as one line; the original has many, with the advice to run the file's code."""
    import pickle

    try:
        yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise UserError(f"{path} is a pickle, but not one of tensors; {_EXPECTED}") from error
        raise UserError(
            f"{path} wants to run code ({found.group(1)}), which is refused; if you trust its origin, open it there "
            "and save the tensors alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is truncated or damaged (torch says: {reason}); copy it again") from error


def _flat_tensors(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat_tensors(inner, f"{name}.{key}")


def _to_numpy(tensor: Any, name: str, path: Path) -> np.ndarray:
    import torch

    try:
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:
        kind = f"{tensor.dtype}, {tensor.layout}"
        raise UserError(f"{path}: {name} is {kind}, which NumPy cannot hold; save it as float32") from error


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as JSON ({error}); repair it, or move it away from the weights"
        ) from error
    return values if isinstance(values, dict) else {}
