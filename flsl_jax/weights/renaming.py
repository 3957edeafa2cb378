"""Canonical tensors under the names of a layout, and back."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.weights.canonical import Tensors, is_gated
from flsl_jax.weights.layouts import Layout, Names


def to_layout(tensors: Mapping[str, np.ndarray], layout: Layout) -> Tensors:
    """A backbone's canonical tensors under the target's names, without those that it lacks and with those that it adds.

    Raises:
        UserError: the target has no place for some tensors; names all of them.
    """
    tensors = dict(tensors)
    bias = tensors["patch_embed.proj.bias"]
    zeros = np.zeros((1, 1, len(bias)), bias.dtype)
    names = _names_of(layout, gated=is_gated(tensors))
    prefix = tensors.pop("prefix", None)
    if not layout.final_norm:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("norm.")}
    renamed: Tensors = dict.fromkeys(layout.unused, zeros)
    if layout.mask_token:
        renamed["mask_token"] = zeros[0]
    if prefix is not None:
        renamed["cls_token"] = prefix[:, :1]
        if prefix.shape[1] > 1:
            renamed[layout.registers] = prefix[:, 1:]
    if layout.zero_row == "always" or (layout.zero_row == "with_token" and prefix is not None):
        tensors["pos_embed"] = np.concatenate([zeros, tensors["pos_embed"]], axis=1)
    homeless = []
    for name, tensor in tensors.items():
        targets = _renamed(name, names)
        if not targets:
            homeless.append(name)
        parts = np.split(tensor, len(targets)) if len(targets) > 1 else [tensor]
        renamed |= dict(zip(targets, parts))
    if homeless:
        raise UserError(f"{layout.target} has no place for {', '.join(homeless)}")
    return {layout.prefix + name: np.ascontiguousarray(tensor) for name, tensor in renamed.items()}


def from_layout(tensors: Mapping[str, np.ndarray], layout: Layout, *, num_patches: int | None = None) -> Tensors:
    """Canonical tensors from a backbone's tensors under the target's names; the inverse of `to_layout`.

    Args:
        tensors: of the backbone only, without wrapper; all of them are used, or are the layout's unused ones.
        layout: whose names they have.
        num_patches: number of positions in the embedding; if it is not given, they must form a square.

    Raises:
        UserError: names that the layout lacks, or a query, key or value is missing; names all of them.
    """
    plain = {name.removeprefix(layout.prefix): tensor for name, tensor in tensors.items()}
    extra = {name: plain.pop(name, None) for name in ("cls_token", layout.registers)}
    if layout.mask_token:
        plain.pop("mask_token", None)
    gated = [_renamed(f"blocks.0.{part}.weight", _names_of(layout, gated=True)) for part in ("mlp.fc1", "mlp.fc2")]
    is_gated = all(name in plain for names in gated for name in names) and layout.swiglu is not None
    result, unknown = original_names(plain, _names_of(layout, gated=is_gated))
    if unknown:
        raise UserError(f"not a backbone as {layout.target} names it: {', '.join(sorted(unknown))}")
    token = None if "cls_token" in layout.unused else extra["cls_token"]
    if "pos_embed" in result:
        first, result["pos_embed"] = _without_token_row(result["pos_embed"], num_patches)
        token = token if token is None or first is None else token + first
    prefix = [part for part in (token, extra[layout.registers]) if part is not None]
    return result | ({"prefix": np.concatenate(prefix, axis=1)} if prefix else {})


def _names_of(layout: Layout, *, gated: bool) -> Names:
    return {**layout.names, **(layout.swiglu or {})} if gated else layout.names


def original_names(tensors: Mapping[str, np.ndarray], names: Names) -> tuple[Tensors, list[str]]:
    """Tensors under their canonical names, with query, key and value joined, and a list of the problems.

    A problem is the name of an unknown tensor, or a phrase about a tensor that lacks one of its parts.
    """
    split: dict[str, dict[int, np.ndarray]] = {}
    unknown = []
    for name, tensor in tensors.items():
        found = _original(name, names)
        if found is None:
            unknown.append(name)
        else:
            split.setdefault(found[0], {})[found[1]] = tensor
    parts = {name: len(found) if isinstance(found := names.get(_generic(name)), tuple) else 1 for name in split}
    unknown += [
        f"{name} in {len(split[name])} of {count} parts" for name, count in parts.items() if len(split[name]) < count
    ]
    joined = {}
    for name, pieces in split.items():
        shapes = [pieces[number].shape for number in sorted(pieces)]
        if len(shapes) > 1 and (len(set(shapes)) > 1 or not shapes[0]):
            unknown.append(f"{name} in parts of shapes {', '.join(map(str, shapes))}")
        elif len(pieces) == parts[name]:
            joined[name] = (
                np.concatenate([pieces[number] for number in sorted(pieces)]) if len(pieces) > 1 else pieces[0]
            )
    return joined, unknown


def _without_token_row(positions: np.ndarray, num_patches: int | None) -> tuple[np.ndarray | None, np.ndarray]:
    """The class token's row, or None, and the rest."""
    rows = positions.shape[1]
    squares = (count for count in (rows, rows - 1) if count and round(count**0.5) ** 2 == count)
    patches = next(squares, rows) if num_patches is None else num_patches
    return (positions[:, :1], positions[:, 1:]) if rows == patches + 1 else (None, positions)


def _generic(name: str) -> str:
    """The table's key of a canonical name: its block's number as {n}, without the last part."""
    stem = re.sub(r"^blocks\.\d+\.", "blocks.{n}.", name)
    return stem if "." not in stem else stem[: stem.rindex(".") + 1]


def _renamed(name: str, names: Names) -> tuple[str, ...]:
    """The target's names of a canonical tensor; none if the target has no place for it."""
    key = _generic(name)
    if key not in names:
        return ()
    number = re.search(r"\.(\d+)\.", name)
    last = name[name.rindex(".") + 1 :] if key.endswith(".") else ""
    targets = names[key]
    return tuple(
        target.replace("{n}", number.group(1) if number else "") + last
        for target in (targets if isinstance(targets, tuple) else (targets,))
    )


def _original(name: str, names: Names) -> tuple[str, int] | None:
    """The canonical name of a target's tensor, and which third of it this is."""
    for key, part, target in _entries(names):
        ending = r"(weight|bias|gamma)" if key.endswith(".") else "()"
        found = re.fullmatch(re.escape(target).replace(r"\{n\}", r"(?P<n>\d+)") + ending, name)
        if found:
            return key.replace("{n}", found.groupdict().get("n") or "") + found.groups()[-1], part
    return None


def _entries(names: Names) -> Iterator[tuple[str, int, str]]:
    for key, targets in names.items():
        yield from (
            (key, part, target) for part, target in enumerate((targets,) if isinstance(targets, str) else targets)
        )
