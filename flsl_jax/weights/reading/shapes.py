"""The architecture that the shapes of canonical tensors show, and what is wrong with them."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import Tensors, is_gated
from flsl_jax.weights.reading.file_metadata import FileMetadata
from flsl_jax.weights.reading.sources import WeightSource

# ViTs whose heads are not 64 channels wide: ViT-H and DINO's ViT-g, by their width.
_HEADS_OF_WIDTH = {1280: 16, 1408: 16}
# DINOv3's are, but for those of its 7B.
_HEADS_OF_ROTARY_WIDTH = {4096: 32}
_MOST_CHANNELS = 16


def finite(tensors: Tensors, path: Path) -> Tensors:
    """The tensors in float32.

    Raises:
        UserError: some values are NaN or infinite, or whole numbers; counts them.
    """
    others = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype.kind in "iubcSUO"}
    if others:
        name, dtype = next(iter(others.items()))
        raise UserError(
            f"{path} holds {dtype} in {name}; expected floats: save it as float32, float16 or bfloat16, and not quantised"
        )
    tensors = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    counts = {name: tensor.size - int(np.isfinite(tensor).sum()) for name, tensor in tensors.items()}
    broken = {name: count for name, count in counts.items() if count}
    if broken:
        name = next(iter(broken))
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise UserError(
            f"{path} holds values that are NaN or infinite: {broken[name]} of {tensors[name].size} in {name}{more}; the "
            "training that wrote it diverged, or the file is damaged: take an earlier checkpoint, or copy it again"
        )
    return tensors


def add_absent_biases(tensors: Tensors, notes: list[str]) -> None:
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


def architecture_of(
    tensors: Tensors,
    source: WeightSource,
    metadata: FileMetadata,
    *,
    assumed_heads: int | None,
    path: Path,
) -> tuple[Architecture, list[str]]:
    """The architecture that tensors and config show, without prefix and grid, and a list of what is wrong with the tensors."""
    kernel = tensors["patch_embed.proj.weight"]
    if (
        kernel.ndim != 4
        or not 1 <= kernel.shape[1] <= _MOST_CHANNELS
        or kernel.shape[2] != kernel.shape[3]
        or not kernel.size
    ):
        raise UserError(
            f"{path}: the patch projection is {kernel.shape}; expected (D, C, p, p), square patches of images with "
            f"{_MOST_CHANNELS} channels at most"
        )
    width, patch = kernel.shape[0], kernel.shape[2]
    blocks = {int(found.group(1)) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
    depth = len(blocks)  # where one is missing, so are tensors of one below this number
    gated = is_gated(tensors)
    first = tensors.get("blocks.0.mlp.fc1.weight")
    hidden = 4 * width if first is None or first.ndim != 2 else first.shape[0] // (2 if gated else 1)
    if (hidden % width or not hidden) and not gated:
        raise UserError(f"{path} has {hidden} hidden channels at a width of {width}; expected a multiple of it")
    heads = metadata.num_heads or _heads_by_convention(tensors, source, width=width, assumed=assumed_heads)
    if heads < 1 or width % heads:
        raise UserError(
            f"{path} has a width of {width} and does not give its number of attention heads"
            f"{f'; {heads} do not divide it' if heads else ''}; pass num_heads"
        )
    periods = _rope_periods(tensors, source, metadata, channels=width // heads, path=path)
    norms = {"norm.weight", "norm.bias"} & tensors.keys()
    arch = Architecture(
        patch_size=patch,
        width=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=4 if gated else hidden // width,
        mlp="swiglu" if gated else "gelu",
        mlp_hidden=hidden if gated else 0,
        pos_embed="rope" if periods else "learned",
        rope_periods=periods,
        pos_resize=metadata.pos_resize or source.pos_resize,
        layer_scale=any(name.endswith("ls1.gamma") for name in tensors),
        norm_eps=metadata.norm_eps or source.norm_eps,
        final_norm=source.final_norm or bool(norms),
        channels=kernel.shape[1],
    )
    return arch, ([] if depth else ["no blocks"]) + _differences(tensors, expected_shapes(arch))


def _heads_by_convention(tensors: Tensors, source: WeightSource, *, width: int, assumed: int | None) -> int:
    """Heads where nothing says their number: as rotary periods show, else the assumed one, else of 64 channels; 0: none fit."""
    stored = tensors.get("rope_periods")
    if stored is not None and stored.size and width % (4 * stored.size) == 0:
        return width // (4 * stored.size)
    if assumed and width % assumed == 0:
        return assumed
    known = _HEADS_OF_ROTARY_WIDTH if source.rotary else _HEADS_OF_WIDTH
    return known.get(width) or (0 if width % 64 else width // 64)


def _rope_periods(
    tensors: Tensors, source: WeightSource, metadata: FileMetadata, *, channels: int, path: Path
) -> tuple[float, ...]:
    """The periods of rotary positions, as the file or its config gives them; also put among the tensors. Empty: none."""
    if not source.rotary:
        return ()
    if "rope_periods" not in tensors:
        # DINOv3's are powers of 100, from 1 on, for a quarter of a head's channels.
        powers = np.arange(channels // 4, dtype=np.float32) / np.float32(channels / 4)
        tensors["rope_periods"] = np.float32(metadata.rope_base or 100.0) ** powers
    periods = tensors["rope_periods"]
    if channels % 4 or periods.shape != (channels // 4,) or not np.all(periods > 0):
        raise UserError(
            f"{path} has rotary periods of shape {periods.shape}; expected {channels / 4:g} numbers above 0, a quarter of a "
            f"head's {channels} channels; pass num_heads if that is wrong"
        )
    return tuple(float(period) for period in periods)


def expected_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's canonical tensors, without prefix and position embedding."""
    width, hidden, patch = arch.width, arch.hidden, arch.patch_size
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    linear |= {"mlp.fc1": (2 * hidden if arch.mlp == "swiglu" else hidden, width), "mlp.fc2": (width, hidden)}
    block: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    block |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    block |= {f"{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
    if arch.layer_scale:
        block |= {"ls1.gamma": (width,), "ls2.gamma": (width,)}
    shapes = {f"blocks.{number}.{name}": shape for number in range(arch.depth) for name, shape in block.items()}
    shapes |= {"patch_embed.proj.weight": (width, arch.channels, patch, patch), "patch_embed.proj.bias": (width,)}
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
    return problems if {"pos_embed", "rope_periods"} & tensors.keys() else [*problems, "no position embedding"]
