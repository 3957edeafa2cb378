"""Reads a state dict of other code as canonical tensors and an architecture; every tensor is accounted for."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from flsl_jax.config import check_grid
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import NetworkName, Tensors, is_gated
from flsl_jax.weights.reading.file_metadata import FileMetadata, fitted_normalisation, read_file_metadata
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.reading.parts import listed, names_below, refuse_other_parts, split, unwrapped
from flsl_jax.weights.reading.positions import place_tokens
from flsl_jax.weights.reading.shapes import add_absent_biases, architecture_of, finite
from flsl_jax.weights.reading.sources import WeightSource, find_source, kind_of_network
from flsl_jax.weights.reading.weight_file import WeightFile
from flsl_jax.weights.renaming import original_names


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
        mean, std: of pixel levels from 0 to 1, as in its training, for each channel.
        window: as of `data.levels.Decoding`; only files written here say it.
        inv_temp: τ of the mean shift of its training; only files written here say it.
        unused: names of tensors, or of other entries, that were not read, and what they are.
        notes: what was assumed, one line each.
    """

    path: Path
    source: str
    architecture: Architecture
    backbone: Tensors
    head: Tensors | None
    heads_known: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    window: tuple[float, float] | None = None
    inv_temp: float | None = None
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
    prefix: str | None = None,
    source: str | None = None,
    num_heads: int | None = None,
    grid: tuple[int, int] | None = None,
    assumed_heads: int | None = None,
) -> Imported:
    """Reads a backbone of timm, DINO to DINOv3, DeiT, MAE, iBOT, FLSL, I-JEPA, Google, torchvision, transformers or OpenMMLab.

    Args:
        path: a weight file, or a folder of timm or transformers; see `read_weights`.
        network: which one, if the file holds both.
        prefix: what stands before the backbone's names, such as `model.student.backbone.`, if the file holds several.
        source: the name of one of `sources.SOURCES`, for a file that would be taken for another source's.
        num_heads: attention heads, which the tensors do not show; by default those in the file's metadata or config, else
            `assumed_heads`, else heads of 64 channels.
        grid: rows and columns of patches in the position embedding; by default what the file's metadata or config says, else
            a square.
        assumed_heads: the number to assume if neither the caller nor the file gives one.

    Raises:
        UserError: the file cannot be read, is no such backbone, or has missing, unknown or misshapen tensors; names all.
    """
    file = unwrapped(read_weights(path))
    metadata = _told(read_file_metadata(file), num_heads=num_heads or file.num_heads, grid=grid)
    found = _source_of(file, metadata, prefix=prefix, chosen=source)
    parts = split(file, found, network=network, asked=prefix)
    tensors, unknown = original_names(parts.backbone, found.names)
    refuse_other_parts(file.path, unknown, metadata, source=found, gated=is_gated(tensors))
    notes, unused = [*metadata.notes, *parts.notes], dict(parts.unused)
    tensors = finite(tensors, file.path)
    add_absent_biases(tensors, notes)
    architecture, problems = architecture_of(tensors, found, metadata, assumed_heads=assumed_heads, path=file.path)
    problems = [f"unknown {name}" for name in unknown] + problems
    if not problems:
        tensors, architecture, problems = place_tokens(
            tensors, architecture, found, metadata, unused=unused, notes=notes
        )
    if problems:
        beside = len(problems) == len(unknown) and all(name in file.tensors for name in unknown)
        raise _incomplete(file.path, found, problems, prefix=parts.prefix if beside else "")
    _note_assumptions(notes, architecture, heads_known=bool(metadata.num_heads))
    mean, std = fitted_normalisation(metadata, architecture.channels, path=file.path, notes=notes)
    return Imported(
        path=file.path,
        source=found.maker,
        architecture=architecture,
        backbone=tensors,
        head=parts.head,
        heads_known=bool(metadata.num_heads),
        mean=mean,
        std=std,
        window=metadata.window,
        inv_temp=metadata.inv_temp,
        unused=unused,
        notes=tuple(notes),
    )


def _told(metadata: FileMetadata, *, num_heads: int | None, grid: tuple[int, int] | None) -> FileMetadata:
    """The metadata with what the caller says, which counts more."""
    return dataclasses.replace(
        metadata, num_heads=num_heads or metadata.num_heads, grid=check_grid(grid) or metadata.grid
    )


def _source_of(file: WeightFile, metadata: FileMetadata, *, prefix: str | None, chosen: str | None) -> WeightSource:
    torch_file = ".safetensors" not in file.path.name
    found = find_source(names_below(file, prefix), chosen=chosen, described=metadata.source, torch_file=torch_file)
    if found is None:
        raise UserError(
            f"{file.path} is {kind_of_network(file.tensors)} (tensors such as {', '.join(list(file.tensors)[:3])}); expected a "
            "plain vision transformer of timm, DINO to DINOv3, MAE, iBOT, FLSL, Google, torchvision or transformers"
        )
    return found


def _incomplete(path: Path, source: WeightSource, problems: list[str], *, prefix: str) -> UserError:
    """`prefix`: of the backbone, if all that is wrong stands beside it."""
    advice = f"; prefix={prefix} leaves out what is beside it" if prefix else ""
    return UserError(f"{path} is not a complete backbone as {source.maker} names it: {listed(problems)}{advice}")


def _note_assumptions(notes: list[str], architecture: Architecture, *, heads_known: bool) -> None:
    if not heads_known:
        notes.append(
            f"assumed {architecture.num_heads} attention heads, which the file does not give (num_heads overrides)"
        )
    if not architecture.final_norm:
        notes.append("no norm after the last block: tokens are the residual stream itself, as the source leaves them")


def _grouped(names: list[str]) -> list[str]:
    """`decoder.* (136)` for 136 names with the same beginning."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    return [f"{stem}.* ({len(group)})" if len(group) > 1 else group[0] for stem, group in groups.items()]
