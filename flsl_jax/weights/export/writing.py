"""Writes weight files completely or not at all: under a temporary name first, which the last step changes."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flsl_jax.errors import UserError, import_problem
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.layouts import Layout

DTYPES: Mapping[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
# Everything that a folder written here may hold; a folder with anything else in it is never replaced.
_FOLDER_FILES = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "curves.png"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds: each network's tensors by the target's names, metadata, and the JSON files beside it."""

    networks: Mapping[str, Tensors]
    metadata: Mapping[str, str]
    configs: Mapping[str, Mapping[str, Any]]


def flat_names(networks: Mapping[str, Tensors], layout: Layout) -> Tensors:
    """All tensors by their names in a safetensors file; these begin with the network's name if a file may hold two."""
    if layout.wrapper != "network":
        (tensors,) = networks.values()
        return dict(tensors)
    return {f"{network}.{name}": tensor for network, tensors in networks.items() for name, tensor in tensors.items()}


def check_output(path: Path, layout: Layout, *, overwrite: bool) -> None:
    """Checks that `path` can be written, before anything is read.

    Raises:
        UserError: the suffix is wrong, torch is missing for a .pth, or `path` exists and must not be replaced.
    """
    if layout.kind == "folder":
        if path.suffix in (".pth", ".pt", ".safetensors"):
            raise UserError(
                f"--output={path} names a file; {layout.target} loads a folder, such as {path.with_suffix('')}"
            )
    elif path.suffix not in (".pth", ".safetensors"):
        raise UserError(
            f"--output={path}: expected a name that ends in {layout.suffix}, which {layout.target} reads, or in "
            f"{'.safetensors' if layout.suffix == '.pth' else '.pth'}"
        )
    elif path.suffix == ".pth" and (problem := torch_problem()):
        raise UserError(
            f"--output={path}: a .pth needs PyTorch; {problem}, or write {path.with_suffix('.safetensors')}, which the printed "
            "snippet loads as well"
        )
    if path.exists():
        if not overwrite:
            raise UserError(f"{path} exists; name another --output, or replace it with --overwrite")
        if path.is_dir() != (layout.kind == "folder"):
            raise UserError(
                f"{path} is a {'folder' if path.is_dir() else 'file'}, which a {layout.kind} cannot replace"
            )
        others = sorted({item.name for item in path.iterdir()} - _FOLDER_FILES) if path.is_dir() else []
        if others:
            raise UserError(f"{path} holds {', '.join(others[:3])}, which no conversion wrote; name another --output")
    _check_parent(path)


def check_new_file(path: Path, *, suffix: str, overwrite: bool) -> None:
    """Checks that a file of another kind can be written, before anything is read.

    Raises:
        UserError: the suffix is wrong, or `path` exists and must not be replaced.
    """
    if path.suffix != suffix:
        raise UserError(f"--output={path}: expected a name that ends in {suffix}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"{path} exists; name another --output, or replace it with --overwrite")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--output={path} cannot be written: {parent} is not a folder that can be written to")


def torch_problem() -> str | None:
    """Why PyTorch cannot be used and what to do, in one line; None if it can."""
    try:
        import torch  # noqa: F401
    except Exception as error:  # a broken one raises many types
        return import_problem(error, package="torch", install="pip install torch")
    return None


@contextlib.contextmanager
def whole_or_not(path: Path, *, flag: str = "--output") -> Iterator[Path]:
    """A temporary path beside `path`; it is renamed to `path` if the block ends without an error, and removed otherwise.

    `flag`: that named it, for the error.

    Raises:
        UserError: the system does not allow the writing.
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    old = path.with_name(f".{path.name}-{os.getpid()}-old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if path.is_dir():
            path.rename(old)
        temporary.replace(path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        if isinstance(error, OSError):
            raise UserError(f"{flag}={path} cannot be written: {error}") from error
        raise
    finally:
        for leftover in (temporary, old):
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


def write_contents(contents: Contents, path: Path, layout: Layout) -> None:
    """Writes a .safetensors, a .pth, or a folder with model.safetensors and its JSON files.

    Raises:
        UserError: the file could not be written completely, perhaps because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    file = path
    if layout.kind == "folder":
        path.mkdir()
        for name, values in contents.configs.items():
            (path / name).write_text(json.dumps(values, indent=2) + "\n")
        file = path / "model.safetensors"
    try:
        if file.suffix == ".safetensors":
            save_file(flat_names(contents.networks, layout), file, metadata=dict(contents.metadata))
            _share(file)
        else:
            _write_torch(contents, file, layout)
    except (SafetensorError, RuntimeError) as error:  # what the two libraries raise when the disk is full
        raise UserError(f"the file cannot be written to {path.parent}; is the disk full? ({error})") from error


def _share(path: Path) -> None:
    """Gives a file the mode of any new one; safetensors keeps its files to their owner."""
    new = path.with_name(f".{path.name}.new")
    new.touch()
    path.chmod(new.stat().st_mode)
    new.unlink()


def _write_torch(contents: Contents, path: Path, layout: Layout) -> None:
    import torch

    states = {
        network: {name: _to_torch(tensor) for name, tensor in tensors.items()}
        for network, tensors in contents.networks.items()
    }
    if layout.wrapper != "network":
        (state,) = states.values()
        if layout.wrapper == "bare":
            torch.save(state, path)
            return
        states = {layout.wrapper: state}
    torch.save({**states, "meta": dict(contents.metadata)}, path)


def _to_torch(tensor: np.ndarray) -> Any:
    import torch

    if tensor.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(tensor.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(tensor.copy())
