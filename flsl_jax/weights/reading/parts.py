"""Which tensors of a file are the backbone, which a head, and what the others are."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.reading.branches import gates_joined, key_biases_settled
from flsl_jax.weights.reading.file_metadata import FileMetadata
from flsl_jax.weights.reading.sources import ALLOWED, REFUSED, SOURCES, WeightSource
from flsl_jax.weights.reading.weight_file import WeightFile

_LISTED = 12

_HEAD_NAMES = {f"mlp.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")}
_HEAD_NAMES |= {"last_layer.weight_g", "last_layer.weight_v"}
_NEWER_WEIGHT_NORM = {f"last_layer.parametrizations.weight.original{n}": f"last_layer.weight_{'gv'[n]}" for n in (0, 1)}

_WORDS = {"teacher": r"(^|\.)(teacher|target_encoder|\w*ema)\.", "student": r"(^|\.)(student|encoder)\."}
_WRAPPED = r"(backbone\.net|backbone|vit|deit|ijepa|dinov2|dinov2_with_registers|dinov3_vit|trunk)\.$"
_ANCHORED = re.compile(rf"^(|.*\.)({'|'.join(re.escape(anchor) for anchor in sorted({s.anchor for s in SOURCES}))})$")
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_FLAT = re.compile(r"(^|\.)_?flat_param(_\d+)?$")
_CHUNKED = re.compile(r"^blocks\.(\d+)\.(\d+)\.")
_OTHER_NETWORK = r"(student|teacher|encoder|target_encoder|predictor|\w*ema|model|state_dict|\w*loss)\."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The tensors of a file, sorted by their use. `prefix`: what stands before the names of the backbone's."""

    prefix: str
    backbone: Tensors
    head: Tensors | None
    unused: Mapping[str, str]
    notes: tuple[str, ...]


def unwrapped(file: WeightFile) -> WeightFile:
    """The file without what PyTorch's wrappers (FSDP, torch.compile, checkpointing) put into names.

    Raises:
        UserError: FSDP has joined the parameters to flat ones, or two names differ in such a wrapper alone.
    """
    flat = [name for name in file.tensors if _FLAT.search(name)]
    if flat:
        raise UserError(
            f"{file.path} holds flat parameters of FSDP ({flat[0]}, {file.tensors[flat[0]].size:,} values), of which names and "
            "shapes cannot be told; save the full state where it was trained: "
            "FSDP.set_state_dict_type(model, StateDictType.FULL_STATE_DICT) before model.state_dict()"
        )
    names = {name: _WRAPPERS.sub("", name) for name in file.tensors}
    return dataclasses.replace(file, tensors=_renamed(file.tensors, names, path=file.path))


def names_below(file: WeightFile, asked: str | None) -> list[str]:
    """The names of the tensors that a prefix chooses, which may stand in a wrapper (`state_dict.`); without one, all.

    Raises:
        UserError: no backbone begins so; tells the prefixes of those that are there.
    """
    if not asked:
        return list(file.tensors)
    there = dict.fromkeys(match[1] for name in file.tensors if (match := _ANCHORED.match(name)))
    if not any(_is_below(prefix, asked) for prefix in there):
        named = ", ".join(prefix or '""' for prefix in there) or "none"
        raise UserError(f"no backbone of {file.path} begins with {asked!r}; prefixes of backbones in it: {named}")
    return [name for name in file.tensors if _is_below(name, asked)]


def _is_below(name: str, asked: str) -> bool:
    return re.search(rf"(^|\.){re.escape(asked.rstrip('.'))}\.", name) is not None


def split(file: WeightFile, source: WeightSource, *, network: str, asked: str | None = None) -> Parts:
    """Splits a file into backbone, head and the rest; unknown names stay with the backbone.

    Args:
        file: what was read.
        source: whose names it has.
        network: which one of two.
        asked: the prefix that the user names; what is beside that backbone is another network, unless it is its head.

    Raises:
        UserError: it is not clear which backbone is meant, or two tensors have one name.
    """
    prefix, notes = _choose_prefix(file, source, network=network, asked=asked)
    container = re.sub(_WRAPPED, "", prefix)
    names, inner, unused = {}, {}, dict.fromkeys(file.others, "not weights")
    for name in file.tensors:
        relative = name.removeprefix(prefix if name.startswith(prefix) else container)
        allowed = next((reason for pattern, reason in ALLOWED if re.match(pattern, relative)), None)
        if not name.startswith(container) and (asked or re.match(_OTHER_NETWORK, name)):
            unused[name] = "another network"
        elif allowed is not None:
            unused[name], inner[relative] = allowed, name
        elif name.startswith(prefix):
            for pattern, replacement in source.older:
                relative = re.sub(pattern, replacement, relative)
            names[name] = relative
        elif asked:
            unused[name] = "another network"
        else:
            names[name] = name
    backbone = gates_joined(_renamed(file.tensors, _unchunked(names), path=file.path))
    if source.rotary:
        backbone = key_biases_settled(backbone)
    head = _head(inner, file.tensors)
    if head:
        unused = {name: reason for name, reason in unused.items() if name not in head.values()}
    tensors = {key: np.asarray(file.tensors[name], np.float32) for key, name in head.items()}
    return Parts(prefix=prefix, backbone=backbone, head=tensors or None, unused=unused, notes=notes)


def _renamed(tensors: Mapping[str, np.ndarray], names: Mapping[str, str], *, path: Path) -> Tensors:
    """The tensors that have new names, under these."""
    owners: dict[str, str] = {}
    for old, new in names.items():
        if new in owners:
            raise UserError(
                f"{path} holds {owners[new]} and {old}, two names of one tensor ({new}); which one is meant cannot be told; "
                "choose a backbone by its prefix, or save the file without the other"
            )
        owners[new] = old
    return {new: tensors[old] for new, old in owners.items()}


def _unchunked(names: Mapping[str, str]) -> dict[str, str]:
    """New names with blocks in chunks (`blocks.0.3.`, as DINOv2 trains them) under the numbers of their blocks."""
    found = {old: match for old, new in names.items() if (match := _CHUNKED.match(new))}
    places = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    # DINOv2 fills its chunks up in front, so that the second number counts all blocks; else it counts those of a chunk.
    counts_all = len({block for _, block in places}) == len(places)
    numbers = {place: place[1] if counts_all else number for number, place in enumerate(places)}
    return {
        old: f"blocks.{numbers[int(found[old][1]), int(found[old][2])]}.{new[found[old].end() :]}"
        if old in found
        else new
        for old, new in names.items()
    }


def _choose_prefix(
    file: WeightFile, source: WeightSource, *, network: str, asked: str | None
) -> tuple[str, tuple[str, ...]]:
    """The prefix of the backbone's names: that which the user asks for, else of the wanted network if the file holds two."""
    ends = [name for name in file.tensors if name == source.anchor or name.endswith(f".{source.anchor}")]
    prefixes = [name.removesuffix(source.anchor) for name in ends]
    if asked:
        exact = [prefix for prefix in prefixes if re.search(rf"(^|\.){re.escape(asked.rstrip('.'))}\.$", prefix)]
        inside = exact or [prefix for prefix in prefixes if _is_below(prefix, asked)]
        if len(inside) == 1:
            return inside[0], ()
        prefixes = inside or prefixes
    other = "student" if network == "teacher" else "teacher"
    wanted = [prefix for prefix in prefixes if re.search(_WORDS[network], prefix)]
    neutral = [prefix for prefix in prefixes if not any(re.search(word, prefix) for word in _WORDS.values())]
    chosen = wanted or neutral or prefixes
    if len(chosen) > 1:
        raise UserError(
            f"{file.path} holds {len(chosen)} backbones ({listed(chosen)}); choose one by its prefix, such as {chosen[-1]}"
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


def refuse_other_parts(
    path: Path, unknown: list[str], metadata: FileMetadata, *, source: WeightSource, gated: bool
) -> None:
    """Refuses a transformer that computes something else in one line, instead of a list of its names."""
    for pattern, kind in REFUSED:
        names = [name for name in unknown if re.search(pattern, name)]
        if names:
            raise UserError(
                f"{path} is a ViT with {kind} ({names[0]}), which the backbone here lacks; expected a plain ViT"
            )
    # transformers' DINOv2 gates by SiLU whatever its config says.
    known = ("gelu", "gelu_python", *(("silu", "swish") if gated else ()))
    known = ("silu", "swish") if gated and source.rotary else known
    if metadata.activation not in (None, *known):
        raise UserError(
            f"{path} uses the activation {metadata.activation!r}; the backbone here has only the exact GELU, and SiLU in SwiGLU"
        )


def listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return "; ".join(items[:_LISTED]) + more
