"""Which tensors of a file are the backbone, which a head, and what the others are."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.reading.file_metadata import FileMetadata
from flsl_jax.weights.reading.files import WeightFile
from flsl_jax.weights.reading.sources import ALLOWED, REFUSED, WeightSource

_LISTED = 12

_HEAD_NAMES = {f"mlp.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")}
_HEAD_NAMES |= {"last_layer.weight_g", "last_layer.weight_v"}
_NEWER_WEIGHT_NORM = {f"last_layer.parametrizations.weight.original{n}": f"last_layer.weight_{'gv'[n]}" for n in (0, 1)}

_WORDS = {"teacher": r"(^|\.)(teacher|target_encoder|\w*ema)\.", "student": r"(^|\.)(student|encoder)\."}
_WRAPPED = r"(backbone\.net|backbone|vit|deit|ijepa|dinov2|dinov2_with_registers|trunk)\.$"
_OTHER_NETWORK = r"(student|teacher|encoder|target_encoder|predictor|\w*ema|model|state_dict|\w*loss)\."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The tensors of a file, sorted by their use."""

    backbone: Tensors
    head: Tensors | None
    unused: Mapping[str, str]
    notes: tuple[str, ...]


def split(file: WeightFile, source: WeightSource, *, network: str) -> Parts:
    """Splits a file into backbone, head and the rest; unknown names stay with the backbone."""
    prefix, notes = _choose_prefix(file, source, network=network)
    container = re.sub(_WRAPPED, "", prefix)
    backbone, inner, unused = {}, {}, dict.fromkeys(file.others, "not weights")
    for name, tensor in file.tensors.items():
        relative = name.removeprefix(prefix if name.startswith(prefix) else container)
        allowed = next((reason for pattern, reason in ALLOWED if re.match(pattern, relative)), None)
        if not name.startswith(container) and re.match(_OTHER_NETWORK, name):
            unused[name] = "another network"
        elif allowed is not None:
            unused[name], inner[relative] = allowed, name
        elif name.startswith(prefix):
            for pattern, replacement in source.older:
                relative = re.sub(pattern, replacement, relative)
            backbone[relative] = tensor
        else:
            backbone[name] = tensor
    head = _head(inner, file.tensors)
    if head:
        unused = {name: reason for name, reason in unused.items() if name not in head.values()}
    tensors = {key: np.asarray(file.tensors[name], np.float32) for key, name in head.items()}
    return Parts(backbone=backbone, head=tensors or None, unused=unused, notes=notes)


def _choose_prefix(file: WeightFile, source: WeightSource, *, network: str) -> tuple[str, tuple[str, ...]]:
    """The prefix of the backbone's names; of the wanted network if the file holds two."""
    ends = [name for name in file.tensors if name == source.anchor or name.endswith(f".{source.anchor}")]
    prefixes = [name.removesuffix(source.anchor) for name in ends]
    other = "student" if network == "teacher" else "teacher"
    wanted = [prefix for prefix in prefixes if re.search(_WORDS[network], prefix)]
    neutral = [prefix for prefix in prefixes if not any(re.search(word, prefix) for word in _WORDS.values())]
    chosen = wanted or neutral or prefixes
    if len(chosen) > 1:
        raise UserError(
            f"{file.path} holds {len(chosen)} backbones ({listed(chosen)}); save the one that you want in a file of its own"
        )
    alone = not wanted and not neutral
    return chosen[0], (f"the file has no {network}; this is its {other}",) if alone else ()


def _head(names: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Canonical names of a projection head -> the file's; empty unless it has exactly the layers of one."""
    for prefix in ("head.", "dino_head."):
        inner = {name.removeprefix(prefix): full for name, full in names.items() if name.startswith(prefix)}
        inner = {_NEWER_WEIGHT_NORM.get(name, name): full for name, full in inner.items()}
        if inner.keys() == _HEAD_NAMES and tensors[inner["mlp.0.weight"]].ndim == 2:
            return inner
    return {}


def refuse_other_parts(path: Path, unknown: list[str], metadata: FileMetadata) -> None:
    """Refuses a transformer that computes something else in one line, instead of a list of its names."""
    for pattern, kind in REFUSED:
        names = [name for name in unknown if re.search(pattern, name)]
        if names:
            raise UserError(
                f"{path} is a ViT with {kind} ({names[0]}), which the backbone here lacks; expected a plain ViT"
            )
    if metadata.activation not in (None, "gelu", "gelu_python"):
        raise UserError(
            f"{path} uses the activation {metadata.activation!r}; the backbone here has only the exact GELU"
        )


def listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return "; ".join(items[:_LISTED]) + more
