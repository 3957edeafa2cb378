"""The weights that a run starts from: a backbone from elsewhere, fitted exactly to the config, and its head if that fits."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.checkpoints import find_checkpoint, read_checkpoint
from flsl_jax.config import Config, HeadConfig, parse_saved_config
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.models.position import resize_embedding, sincos_embedding
from flsl_jax.networks import architecture_of
from flsl_jax.weights.canonical import Tensors, backbone_params, backbone_tensors, head_params, head_tensors
from flsl_jax.weights.load import check_for_run, is_run
from flsl_jax.weights.reading.importing import import_weights

_SINCOS_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Initial:
    """Parameters as nested dictionaries of float32 NumPy arrays, with the shapes of the config's network.

    `head`: None if the head starts from random values. `report`: what was taken, changed, dropped and assumed, in lines.
    """

    backbone: dict[str, Any]
    head: dict[str, Any] | None
    report: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    architecture: Architecture
    backbone: Tensors
    head: Tensors | None
    heads_known: bool
    report: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]


def read_initial(config: Config) -> Initial:
    """Reads `config.init_from` and fits it to the config's network.

    Width, depth, patch, heads and MLP must be the config's. Prefix tokens are kept or dropped as `model.prefix_tokens` says.
    The position embedding is resized to the config's grid by the mode that the source expects. LayerScale stays where the
    config has it; else it is folded into the kernels before it, which is exact. If the source has no norm after the last
    block, that norm starts as the identity.

    Raises:
        UserError: the source cannot be read, or is another network; one line gives all differences by the config's keys.
    """
    try:
        found = _find(config)
    except UserError as error:
        raise UserError(f"config.init_from: {error}") from error
    _check(config, found)
    notes: list[str] = []
    wanted = architecture_of(config)
    tensors = _fit(found, wanted, notes)
    views = config.views
    if found.normalisation != (views.mean, views.std):
        mean, std = (",".join(map(str, values)) for values in found.normalisation)
        notes.append(
            "it was trained on images with another normalisation; that would be "
            f"config.views.mean = ({mean}) and config.views.std = ({std})"
        )
    head, reason = _fit_head(found.head, config.head, width=wanted.width)
    notes.append(f"head: {reason}")
    if head is None and not config.head.warmup_epochs:
        notes.append("config.head.warmup_epochs = 1.0 would train the new head alone first and protect the features")
    return Initial(
        backbone=backbone_params(tensors, wanted),
        head=head,
        report="\n  ".join([f"starts from {found.report}", *notes]),
    )


def _find(config: Config) -> _Found:
    path, told = Path(config.init_from), config.init_reading.arguments()
    if is_run(path):
        name = told.pop("network")
        check_for_run(path, **told)
        place = find_checkpoint(path)
        step, state, run = read_checkpoint(place.folder, step=place.step, parts=[name])
        before = parse_saved_config(run["config"])
        found, architecture = state[name], architecture_of(before)
        return _Found(
            architecture=architecture,
            backbone=backbone_tensors(found["backbone"], architecture),
            head=head_tensors(found["head"]),
            heads_known=True,
            report=f"the {name} of {place.folder.parent}, step {step}",
            normalisation=(before.views.mean, before.views.std),
        )
    imported = import_weights(path, **told, assumed_heads=config.model.num_heads)
    return _Found(
        architecture=imported.architecture,
        backbone=imported.backbone,
        head=imported.head,
        heads_known=imported.heads_known,
        report=imported.report(),
        normalisation=(imported.mean, imported.std),
    )


def _check(config: Config, found: _Found) -> None:
    wanted, arch = architecture_of(config), found.architecture
    names = ["patch_size", "width", "depth", "num_heads", "mlp_ratio"]
    differences = [
        f"config.model.{name} is {getattr(wanted, name)}, the source has {getattr(arch, name)}"
        for name in names
        if getattr(wanted, name) != getattr(arch, name)
    ]
    if wanted.channels != arch.channels:
        differences.append(
            f"config.data.channels is {wanted.channels}, the source has {arch.channels}, and its patch projection is for those"
        )
    if arch.mlp == "swiglu":
        differences.append("the source has SwiGLU MLPs, and networks trained here have GELU's")
    if arch.pos_embed == "rope":
        differences.append("the source has rotary positions, and networks trained here have an embedding of them")
    differences += _lacking(wanted, arch)
    if wanted.pos_embed == "sincos" and not differences and not _is_sincos(found):
        differences.append(
            'config.model.pos_embed is "sincos", but the source has another embedding; set it to "learned"'
        )
    if differences:
        flags = " ".join(
            f"--config.model.{name}={getattr(arch, name):g}"
            for name in names
            if getattr(wanted, name) != getattr(arch, name)
        )
        advice = f"; the network of the source has {flags}" if flags else ""
        raise UserError(f"config.init_from = {config.init_from!r} is another network: {'; '.join(differences)}{advice}")


def _lacking(wanted: Architecture, source: Architecture) -> list[str]:
    """What the config keeps of a source that does not have it."""
    differences = []
    if wanted.num_prefix and not source.num_prefix:
        differences.append(
            'config.model.prefix_tokens is "keep", but the source has no class token and no registers; set it to "drop"'
        )
    elif wanted.num_prefix not in (0, source.num_prefix):
        differences.append(
            f"config.model.num_prefix is {wanted.num_prefix}, the source has {source.num_prefix} prefix token(s) (class "
            "token, registers)"
        )
    if wanted.layer_scale and not source.layer_scale:
        differences.append("config.model.layer_scale is True, the source has no LayerScale")
    return differences


def _is_sincos(found: _Found) -> bool:
    arch = found.architecture
    expected = sincos_embedding(grid=arch.grid, width=arch.width).reshape(1, -1, arch.width)
    return bool(np.abs(found.backbone["pos_embed"] - expected).max() < _SINCOS_TOLERANCE)


def _fit(found: _Found, wanted: Architecture, notes: list[str]) -> Tensors:
    """The tensors of the config's backbone; every change goes into `notes`."""
    tensors, arch = dict(found.backbone), found.architecture
    if wanted.num_prefix:
        notes.append(f"{arch.num_prefix} prefix token(s) (class token, registers) kept")
    elif tensors.pop("prefix", None) is not None:
        notes.append(
            f"{arch.num_prefix} prefix token(s) (class token, registers) dropped, which changes the features a little"
        )
    if arch.layer_scale and not wanted.layer_scale:
        tensors = _fold_layer_scale(tensors, arch.depth)
        notes.append("LayerScale folded into the kernels before it, which is exact")
    if not arch.final_norm:
        tensors |= {"norm.weight": np.ones(arch.width, np.float32), "norm.bias": np.zeros(arch.width, np.float32)}
        notes.append("the source has no norm after the last block: here it starts as the identity")
    if arch.grid != wanted.grid and wanted.pos_embed == "learned":
        grid = jnp.asarray(tensors["pos_embed"]).reshape(*arch.grid, arch.width)
        resized = np.asarray(resize_embedding(grid, grid=wanted.grid, mode=arch.pos_resize))
        tensors["pos_embed"] = resized.reshape(1, -1, arch.width)
        kept = f"; config.model.pos_grid = {arch.grid[0]} would keep it" if arch.grid[0] == arch.grid[1] else ""
        notes.append(f"position embedding resized from {arch.grid} to {wanted.grid} tokens by {arch.pos_resize}{kept}")
    if arch.pos_resize != wanted.pos_resize:
        notes.append(
            f"the source expects config.model.pos_resize = {arch.pos_resize}; from now on it is {wanted.pos_resize}"
        )
    if arch.norm_eps != wanted.norm_eps:
        notes.append(f"the epsilon of its norms is {arch.norm_eps}; here config.model.norm_eps is {wanted.norm_eps}")
    return tensors


def _fold_layer_scale(tensors: Tensors, depth: int) -> Tensors:
    """`gamma * (W x + b)` as `(gamma W) x + gamma b`."""
    folded = dict(tensors)
    for number in range(depth):
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma, stem = folded.pop(f"blocks.{number}.{scale}.gamma"), f"blocks.{number}.{layer}"
            folded[f"{stem}.weight"] = gamma[:, None] * folded[f"{stem}.weight"]
            folded[f"{stem}.bias"] = gamma * folded[f"{stem}.bias"]
    return folded


def _fit_head(
    tensors: Mapping[str, np.ndarray] | None, head: HeadConfig, *, width: int
) -> tuple[dict[str, Any] | None, str]:
    """The head's parameters, or None, and why."""
    if tensors is None:
        return None, "new; the source has none of this form"
    expected = {
        "mlp.0.weight": (head.hidden, width),
        "mlp.2.weight": (head.hidden, head.hidden),
        "mlp.4.weight": (head.bottleneck, head.hidden),
        "last_layer.weight_v": (head.centroids, head.bottleneck),
    }
    differences = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    if differences:
        return None, f"new; the source's has other shapes ({', '.join(differences)})"
    if head.norm_last_layer and not np.allclose(tensors["last_layer.weight_g"], 1.0):
        return None, "new; the source's has a learned gain, and config.head.norm_last_layer keeps it at 1"
    params = head_params(dict(tensors), norm_last_layer=head.norm_last_layer)
    return jax.tree.map(np.asarray, params), "taken from the source too"
