"""Reads a state dict of other code as canonical tensors and an architecture; every tensor is accounted for."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import NetworkName, Tensors
from flsl_jax.weights.layouts import original_names
from flsl_jax.weights.reading.file_metadata import FileMetadata, read_file_metadata
from flsl_jax.weights.reading.files import WeightFile, read_weights
from flsl_jax.weights.reading.sources import ALLOWED, REFUSED, WeightSource, find_source, kind_of_network

# ViTs whose heads are not 64 channels wide: ViT-H and DINO's ViT-g, by their width.
_HEADS_OF_WIDTH = {1280: 16, 1408: 16}
_LISTED = 12

_HEAD_NAMES = {f"mlp.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")}
_HEAD_NAMES |= {"last_layer.weight_g", "last_layer.weight_v"}
_NEWER_WEIGHT_NORM = {f"last_layer.parametrizations.weight.original{n}": f"last_layer.weight_{'gv'[n]}" for n in (0, 1)}

_WORDS = {"teacher": r"(^|\.)(teacher|target_encoder|\w*ema)\.", "student": r"(^|\.)(student|encoder)\."}
_WRAPPED = r"(backbone\.net|backbone|vit|deit|ijepa|dinov2|dinov2_with_registers|trunk)\.$"
_OTHER_NETWORK = r"(student|teacher|encoder|target_encoder|predictor|\w*ema|model|state_dict|\w*loss)\."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """A backbone from elsewhere, and its head if it has one of the form that is used here.

    Attributes:
        path: the weight file.
        source: whose layout it has, in words.
        architecture: what the backbone computes.
        backbone: its canonical tensors, float32; a class token, a distillation token and registers are the prefix, in this
            order, with their position embeddings.
        head: canonical tensors of a projection head like DINO's, float32; None: there is none.
        heads_known: whether the number of attention heads is given by the file, its config or the caller.
        mean, std: of pixel levels from 0 to 1, as in its training; red, green and blue.
        unused: names of tensors, or of other entries, that were not read, and what they are.
        notes: what was assumed, one line each.
    """

    path: Path
    source: str
    architecture: Architecture
    backbone: Tensors
    head: Tensors | None
    heads_known: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    unused: Mapping[str, str]
    notes: tuple[str, ...]

    def report(self) -> str:
        """What was read, left out and assumed, in lines."""
        arch = self.architecture
        lines = [
            f"{self.path}: {self.source}; ViT of width {arch.width}, {arch.depth} blocks, {arch.num_heads} heads, patch "
            f"{arch.patch_size}, {arch.grid[0]}×{arch.grid[1]} tokens, {arch.num_prefix} prefix token(s)"
        ]
        for reason in dict.fromkeys(self.unused.values()):
            names = [name for name, why in self.unused.items() if why == reason]
            lines.append(f"not used, {reason}: {', '.join(_grouped(names))}")
        return "\n  ".join([*lines, *self.notes])


def import_weights(
    path: str | Path,
    *,
    network: NetworkName = "teacher",
    source: str | None = None,
    num_heads: int | None = None,
    assumed_heads: int | None = None,
) -> Imported:
    """Reads a backbone of timm, DINO, DINOv2, DeiT, MAE, iBOT, FLSL, I-JEPA, torchvision, transformers or OpenMMLab.

    Args:
        path: a weight file, or a folder of timm or transformers; see `read_weights`.
        network: which one, if the file holds both.
        source: the name of one of `sources.SOURCES`, for a file that would be taken for another source's.
        num_heads: attention heads, which the tensors do not show; by default those in the file's metadata or config, else
            `assumed_heads`, else heads of 64 channels.
        assumed_heads: the number to assume if neither the caller nor the file gives one.

    Raises:
        UserError: the file cannot be read, is not such a backbone, or has missing or unknown tensors or some of a wrong
            shape; one line names all of them.
    """
    file = read_weights(path)
    metadata = read_file_metadata(file)
    num_heads = num_heads or metadata.num_heads
    found = _source_of(file, metadata, chosen=source)
    parts = _split(file, found, network=network)
    tensors, unknown = original_names(parts.backbone, found.names)
    _refuse_other_parts(file.path, unknown, metadata)
    notes, unused = [*metadata.notes, *parts.notes], dict(parts.unused)
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    _add_absent_biases(tensors, notes)
    architecture, problems = _architecture(
        tensors, found, metadata, num_heads=num_heads, assumed_heads=assumed_heads, path=file.path
    )
    problems = [f"unknown {name}" for name in unknown] + problems
    if not problems:
        tensors, architecture, problems = _place_tokens(
            tensors, architecture, found, metadata, unused=unused, notes=notes
        )
    if problems:
        raise UserError(f"{file.path} is not a complete backbone as {found.maker} names it: {_listed(problems)}")
    _note_assumptions(notes, architecture, heads_known=bool(num_heads))
    return Imported(
        path=file.path,
        source=found.maker,
        architecture=architecture,
        backbone=tensors,
        head=parts.head,
        heads_known=bool(num_heads),
        mean=metadata.mean,
        std=metadata.std,
        unused=unused,
        notes=tuple(notes),
    )


def _source_of(file: WeightFile, metadata: FileMetadata, *, chosen: str | None) -> WeightSource:
    torch_file = file.path.suffix != ".safetensors"
    found = find_source(file.tensors, chosen=chosen, described=metadata.source, torch_file=torch_file)
    if found is None:
        raise UserError(
            f"{file.path} is {kind_of_network(file.tensors)} (tensors such as {', '.join(list(file.tensors)[:3])}); expected a "
            "plain vision transformer of timm, DINO, DINOv2, MAE, iBOT, FLSL, torchvision or transformers"
        )
    return found


def _note_assumptions(notes: list[str], architecture: Architecture, *, heads_known: bool) -> None:
    if not heads_known:
        notes.append(
            f"assumed {architecture.num_heads} attention heads, which the file does not give (num_heads overrides)"
        )
    if not architecture.final_norm:
        notes.append("no norm after the last block: tokens are the residual stream itself, as the source leaves them")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parts:
    """The tensors of a file, sorted by their use."""

    backbone: Tensors
    head: Tensors | None
    unused: Mapping[str, str]
    notes: tuple[str, ...]


def _split(file: WeightFile, source: WeightSource, *, network: str) -> _Parts:
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
    return _Parts(backbone=backbone, head=tensors or None, unused=unused, notes=notes)


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
            f"{file.path} holds {len(chosen)} backbones ({_listed(chosen)}); save the one that you want in a file of its own"
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


def _refuse_other_parts(path: Path, unknown: list[str], metadata: FileMetadata) -> None:
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


def _add_absent_biases(tensors: Tensors, notes: list[str]) -> None:
    """Adds zeros for biases that a network was built without, which gives the same result."""
    kernels = [
        name for name in tensors if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.weight|patch_embed\.proj\.weight", name)
    ]
    for ending in ("attn.qkv.weight", "patch_embed.proj.weight"):
        own = [name for name in kernels if name.endswith(ending)]
        biases = {name.removesuffix("weight") + "bias": len(tensors[name]) for name in own}
        if biases and not biases.keys() & tensors.keys():
            tensors |= {name: np.zeros(size, np.float32) for name, size in biases.items()}
            notes.append(
                f"no {ending.removesuffix('weight')}bias anywhere in the file: zeros are used, which gives the same result"
            )


def _architecture(
    tensors: Tensors,
    source: WeightSource,
    metadata: FileMetadata,
    *,
    num_heads: int | None,
    assumed_heads: int | None,
    path: Path,
) -> tuple[Architecture, list[str]]:
    """The architecture that tensors and config show, without prefix and grid, and a list of what is wrong with the tensors."""
    kernel = tensors["patch_embed.proj.weight"]
    if kernel.ndim != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise UserError(
            f"{path}: the patch projection is {kernel.shape}; expected (D, 3, p, p), square patches of RGB images"
        )
    width, patch = kernel.shape[0], kernel.shape[2]
    blocks = {int(found.group(1)) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    depth = max(blocks, default=-1) + 1
    hidden = tensors.get("blocks.0.mlp.fc1.weight", np.zeros((4 * width, 0))).shape[0]
    if hidden % width:
        raise UserError(f"{path} has {hidden} hidden channels at a width of {width}; expected a multiple of it")
    by_convention = _HEADS_OF_WIDTH.get(width) or (0 if width % 64 else width // 64)
    if assumed_heads and width % assumed_heads == 0:
        by_convention = assumed_heads
    heads = num_heads or by_convention
    if not heads or width % heads:
        raise UserError(
            f"{path} has a width of {width} and does not give its number of attention heads"
            f"{f'; {heads} do not divide it' if heads else ''}; pass num_heads"
        )
    norms = {"norm.weight", "norm.bias"} & tensors.keys()
    arch = Architecture(
        patch_size=patch,
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=hidden // width,
        pos_resize=metadata.pos_resize or source.pos_resize,
        layer_scale=any(name.endswith("ls1.gamma") for name in tensors),
        norm_eps=metadata.norm_eps or source.norm_eps,
        final_norm=source.final_norm or bool(norms),
    )
    return arch, _differences(tensors, expected_shapes(arch))


def expected_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's canonical tensors, without prefix and position embedding."""
    width, hidden, patch = arch.width, arch.mlp_ratio * arch.width, arch.patch_size
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    block |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    block |= {f"{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    if arch.layer_scale:
        block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    shapes = {f"blocks.{number}.{name}": shape for number in range(arch.depth) for name, shape in block.items()}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    return shapes | ({"norm.weight": (width,), "norm.bias": (width,)} if arch.final_norm else {})


def _differences(tensors: Tensors, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    problems = [f"no {name}" for name in expected if name not in tensors]
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            problems.append(f"{name} {tensors[name].shape} instead of {shape}")
    width = expected["patch_embed.proj.bias"][0]
    for name in ("pos_embed", "cls_token", "dist_token", "reg_token"):
        shape = tensors[name].shape if name in tensors else None
        if shape is not None and (len(shape) != 3 or (shape[0], shape[2]) != (1, width)):
            problems.append(f"{name} {shape} instead of (1, …, {width})")
    return problems if "pos_embed" in tensors else [*problems, "no position embedding"]


def _place_tokens(
    tensors: Tensors,
    arch: Architecture,
    source: WeightSource,
    metadata: FileMetadata,
    *,
    unused: dict[str, str],
    notes: list[str],
) -> tuple[Tensors, Architecture, list[str]]:
    """Adds their position embeddings to the prefix tokens, and finds the grid of the other positions."""
    tensors = dict(tensors)
    own = {name: tensors.pop(name) for name in ("cls_token", "dist_token", "reg_token") if name in tensors}
    positions = tensors["pos_embed"]
    count = sum(token.shape[1] for token in own.values())
    candidates = [count, *([1] if "cls_token" in own and count > 1 else []), 0, *([1] if source.spare_row else [])]
    found = ((rows, _grid(positions.shape[1] - rows, metadata.grid)) for rows in candidates)
    rows, grid = next(((rows, grid) for rows, grid in found if grid), (0, None))
    if grid is None:
        wanted = f"{metadata.grid[0]}×{metadata.grid[1]}" if metadata.grid else "a square"
        return (
            tensors,
            arch,
            [f"{positions.shape[1]} positions, which are not {wanted} of patches and {count} other tokens"],
        )
    spare, places = positions[:, :rows], positions[:, rows:]
    if source.name == "dino" and own.keys() == {"cls_token"} and not rows:
        unused["cls_token"] = "kept by the FLSL release, which does not use it"
        own = {}
    if source.spare_row and own.keys() <= {"cls_token"} and not any(np.any(x) for x in (spare, *own.values())):
        unused |= dict.fromkeys(own, "zeros that the format requires")
        own = {}
    if rows and not own:
        unused["first row of the position embedding"] = "of a class token that the file lacks"
    tensors["pos_embed"] = places
    if own:
        prefix = np.concatenate(list(own.values()), axis=1)
        prefix[:, :rows] += spare
        tensors["prefix"] = prefix
        if rows != prefix.shape[1]:
            notes.append(f"position embeddings of {rows} of the {prefix.shape[1]} prefix tokens, as their number shows")
    num_prefix = tensors["prefix"].shape[1] if own else 0
    return tensors, dataclasses.replace(arch, grid=grid, num_prefix=num_prefix), []


def _grid(count: int, given: tuple[int, int] | None) -> tuple[int, int] | None:
    """The grid of `count` positions: the one that the file gives, else a square; None where `count` does not fit it."""
    if given is not None:
        return given if given[0] * given[1] == count else None
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None


def _grouped(names: list[str]) -> list[str]:
    """`decoder.* (136)` for 136 names with the same beginning."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    return [f"{stem}.* ({len(group)})" if len(group) > 1 else group[0] for stem, group in groups.items()]


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return "; ".join(items[:_LISTED]) + more
