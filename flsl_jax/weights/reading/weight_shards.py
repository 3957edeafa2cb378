"""Weights in several files with an index, as transformers and torch's tools save large ones; and folders of other savers."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.weights.reading.weight_file import WeightFile

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.safetensors|\.bin)$")
# Files by which folders are known that training frameworks save, what such folders are, and what to do with them.
_FOLDERS = (
    (
        "*.distcp",
        "a distributed checkpoint of PyTorch",
        "join it where PyTorch is: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth",
    ),
    (
        "*mp_rank_*_model_states.pt",
        "a checkpoint of DeepSpeed",
        "join it where it was trained: python zero_to_fp32.py, which DeepSpeed puts beside it",
    ),
)


def refuse_checkpoint_folder(path: Path) -> None:
    """Refuses a folder, or a file in one, that another framework's training saved in parts.

    Raises:
        UserError: it is one; says which and how its parts are joined.
    """
    folder = path.parent if path.suffix == ".distcp" else path
    for pattern, kind, advice in _FOLDERS:
        places = {item.parent for glob in (pattern, f"*/{pattern}") for item in folder.glob(glob)}
        if places:
            place = min(places)
            raise UserError(f"{place} is {kind}, which is not read here; {advice.format(path=place)}")


def is_checkpoint_folder(path: Path) -> bool:
    """Whether `refuse_checkpoint_folder` refuses a folder."""
    return any(any(path.glob(glob)) for pattern, _, _ in _FOLDERS for glob in (pattern, f"*/{pattern}"))


def refuse_single_shard(path: Path) -> None:
    """Refuses one shard of several.

    Raises:
        UserError: the file's name says that it is one.
    """
    found = _SHARD.match(path.name)
    if found and int(found[2]) > 1:
        index = path.with_name(f"{found[1]}{found[3]}.index.json")
        what = f"name {index}, or the folder" if index.exists() else f"{index.name}, which lists them, is not beside it"
        raise UserError(f"{path} is one of {int(found[2])} shards; {what}")


def read_shards(index: Path, read: Callable[[Path], WeightFile]) -> WeightFile:
    """All tensors of the files that an index names.

    Args:
        index: JSON with `weight_map`, tensor name -> name of a file beside it.
        read: reads one of them.

    Raises:
        UserError: the index is damaged or names files elsewhere; a shard is missing, or lacks tensors that it should have.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted({str(place) for place in places.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index} is no index of shards ({type(error).__name__}: {error}); expected JSON with a weight_map"
        ) from error
    outside = [name for name in files if Path(name).name != name]
    if outside or not files:
        named = f"files elsewhere ({', '.join(outside[:3])})" if outside else "no files"
        raise UserError(f"{index} names {named}; expected names of files beside it")
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index} names {len(files)} shards, and {len(missing)} are missing ({_some(missing)}); copy them beside it"
        )
    tensors: dict[str, np.ndarray] = {}
    for name in files:
        found = read(index.parent / name).tensors
        lacking = [tensor for tensor, place in places.items() if place == name and tensor not in found]
        if lacking:
            raise UserError(
                f"{index.parent / name} lacks {_some(lacking)}, which {index.name} says is in it; copy the shards again"
            )
        # A shard may hold more than the index says of it, such as what is left of an earlier division.
        tensors |= {tensor: values for tensor, values in found.items() if places.get(tensor, name) == name}
    return WeightFile(path=index, tensors=tensors)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
