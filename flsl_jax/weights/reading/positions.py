"""Which positions of an embedding are patches on a grid, and which belong to the tokens before them."""

import dataclasses
import math

import numpy as np

from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.reading.file_metadata import FileMetadata
from flsl_jax.weights.reading.sources import WeightSource

# Height and width of images of a network with rotary positions that does not say it, as DINOv3's hub has it.
_ROTARY_SIZE = 224


def place_tokens(
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
    if arch.pos_embed == "rope":
        side = max(1, _ROTARY_SIZE // arch.patch_size)
        prefix = np.concatenate(list(own.values()), axis=1) if own else np.zeros((1, 0, arch.width), np.float32)
        placed = dataclasses.replace(arch, grid=metadata.grid or (side, side), num_prefix=prefix.shape[1])
        return tensors | ({"prefix": prefix} if own else {}), placed, []
    positions = tensors["pos_embed"]
    count = sum(token.shape[1] for token in own.values())
    # DINOv2's registers have no positions, and its class token has; a distillation token always has one.
    alone = [1] if {"cls_token", "reg_token"} <= own.keys() and "dist_token" not in own else []
    candidates = [count, *alone, 0, *([1] if source.spare_row else [])]
    found = ((rows, _grid(positions.shape[1] - rows, metadata.grid)) for rows in candidates)
    rows, grid = next(((rows, grid) for rows, grid in found if grid), (0, None))
    if grid is None:
        advice = "" if metadata.grid else "; pass their grid=(rows, columns)"
        wanted = f"{metadata.grid[0]}×{metadata.grid[1]}" if metadata.grid else "a square"
        return (
            tensors,
            arch,
            [f"{positions.shape[1]} positions, which are not {wanted} of patches and {count} other tokens{advice}"],
        )
    if not rows and (doubt := _doubt(own, grid, source, metadata, scaled=arch.layer_scale)):
        return tensors, arch, [doubt]
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


def _doubt(
    own: Tensors, grid: tuple[int, int], source: WeightSource, metadata: FileMetadata, *, scaled: bool
) -> str | None:
    """Why n² positions beside a class token may not be n×n patches; None where they are.

    They may be (n - 1)×(n + 1) patches and the class token's own position. In code that gives its class token no position
    they are not: DeiT III, which has LayerScale; timm's networks with registers; and the FLSL release.
    """
    side = grid[0]
    if metadata.grid is not None or own.keys() != {"cls_token"} or side < 2 or scaled or source.placeless_token:
        return None
    return (
        f"{side * side} positions beside a class token, which are {side}×{side} patches, or {side - 1}×{side + 1} and the "
        f"token's; say which: grid=({side}, {side}) or grid=({side - 1}, {side + 1})"
    )


def _grid(count: int, given: tuple[int, int] | None) -> tuple[int, int] | None:
    """The grid of `count` positions: the one that the file gives, else a square; None where `count` does not fit it."""
    if given is not None:
        return given if given[0] * given[1] == count else None
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None
