"""Parameters as named tensors in timm's layout, the common form of every weight format, and back; bit-exact.

A backbone of L blocks has `patch_embed.proj.{weight,bias}` (D, C, p, p), `pos_embed` (1, N, D) or, with rotary positions,
`rope_periods` (d/4) that are no parameter, `prefix` (1, P, D) where there are prefix tokens, `blocks.{0 … L-1}.{norm1,
attn.qkv,attn.proj,norm2,mlp.fc1,mlp.fc2}.{weight,bias}`, `ls1.gamma` and `ls2.gamma` with LayerScale, and
`norm.{weight,bias}` unless there is no final norm. Linear weights are (outputs, inputs), as in torch; `mlp.fc1` of a SwiGLU
MLP is its gate, then what the gate multiplies. A head has DINO's names: `mlp.{0,2,4}.{weight,bias}`, `last_layer.weight_v`
(K, bottleneck) and `last_layer.weight_g` (K, 1).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from flsl_jax.models import Architecture
from flsl_jax.models.position import sincos_embedding

Tensors = dict[str, np.ndarray]
NetworkName = Literal["teacher", "student"]

_HEAD_LAYERS = {"fc1": "mlp.0", "fc2": "mlp.2", "fc3": "mlp.4"}


def backbone_tensors(params: Mapping[str, Any], architecture: Architecture) -> Tensors:
    """A backbone's parameter tree (nested dictionaries of arrays) as named tensors; a sin-cos embedding is written out."""
    arch = architecture
    kernel = np.asarray(params["patch_embed"]["proj"]["kernel"])
    conv = kernel.reshape(arch.patch_size, arch.patch_size, arch.channels, arch.width).transpose(3, 2, 0, 1)
    tensors = {}
    if arch.pos_embed == "sincos":
        tensors["pos_embed"] = sincos_embedding(grid=arch.grid, width=arch.width).reshape(1, -1, arch.width)
    elif arch.pos_embed == "learned":
        tensors["pos_embed"] = np.asarray(params["pos_embed"]).reshape(1, -1, arch.width)
    else:
        tensors["rope_periods"] = np.asarray(arch.rope_periods, np.float32)
    tensors |= {
        "patch_embed.proj.weight": np.ascontiguousarray(conv),
        "patch_embed.proj.bias": np.asarray(params["patch_embed"]["proj"]["bias"]),
    }
    if arch.num_prefix:
        tensors["prefix"] = np.asarray(params["prefix"])[None]
    stacked = list(_leaves(params["blocks"]))
    for number in range(arch.depth):
        tensors |= dict(_torch_leaf(f"blocks.{number}.{path}", np.asarray(leaf)[number]) for path, leaf in stacked)
    norm = params["norm"] if arch.final_norm else {}
    return tensors | dict(_torch_leaf(f"norm.{path}", np.asarray(leaf)) for path, leaf in _leaves(norm))


def backbone_params(tensors: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str, Any]:
    """The parameter tree of named tensors; the inverse of `backbone_tensors`.

    Names and shapes must be those of the architecture: check them before.
    """
    arch = architecture
    conv = tensors["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    projection = {"kernel": conv.reshape(-1, arch.width), "bias": tensors["patch_embed.proj.bias"]}
    params: dict[str, Any] = {"patch_embed": {"proj": projection}, "blocks": {}}
    if arch.pos_embed == "learned":
        params["pos_embed"] = tensors["pos_embed"].reshape(*arch.grid, arch.width)
    if arch.num_prefix:
        params["prefix"] = tensors["prefix"][0]
    first = "blocks.0."
    for name in (name[len(first) :] for name in tensors if name.startswith(first)):
        leaves = [_our_leaf(name, tensors[f"blocks.{number}.{name}"]) for number in range(arch.depth)]
        _insert(params["blocks"], leaves[0][0], np.stack([leaf for _, leaf in leaves]))
    if arch.final_norm:
        params["norm"] = {"scale": tensors["norm.weight"], "bias": tensors["norm.bias"]}
    return params


def head_tensors(params: Mapping[str, Any]) -> Tensors:
    """A head's parameter tree as named tensors; a fixed gain is written as ones."""
    tensors = {}
    for ours, theirs in _HEAD_LAYERS.items():
        tensors |= dict(_torch_leaf(f"{theirs}.{path}", np.asarray(leaf)) for path, leaf in _leaves(params[ours]))
    directions = np.ascontiguousarray(np.asarray(params["last_layer"]["kernel"]).T)
    gain = np.asarray(params["last_layer"].get("gain", np.ones(len(directions), directions.dtype)))
    return tensors | {"last_layer.weight_v": directions, "last_layer.weight_g": gain[:, None]}


def head_params(tensors: Mapping[str, np.ndarray], *, norm_last_layer: bool) -> dict[str, Any]:
    """The parameter tree of a head; with `norm_last_layer` its gain is not a parameter and must be 1."""
    params: dict[str, Any] = {}
    for ours, theirs in _HEAD_LAYERS.items():
        for name in ("weight", "bias"):
            _insert(params, *_our_leaf(f"{ours}.{name}", tensors[f"{theirs}.{name}"]))
    params["last_layer"] = {"kernel": np.ascontiguousarray(tensors["last_layer.weight_v"].T)}
    if not norm_last_layer:
        params["last_layer"]["gain"] = tensors["last_layer.weight_g"][:, 0]
    return params


def is_gated(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether the MLPs of canonical tensors are SwiGLU's: `fc1` gives twice the channels that `fc2` takes."""
    first, second = (tensors.get(f"blocks.0.mlp.{layer}.weight") for layer in ("fc1", "fc2"))
    if first is None or second is None or first.ndim != 2 or second.ndim != 2:
        return False
    return first.shape[0] == 2 * second.shape[1] and first.shape[1] == second.shape[0]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]


def _torch_leaf(path: str, leaf: np.ndarray) -> tuple[str, np.ndarray]:
    """A leaf under torch's name: kernels transposed, a norm's scale as its weight."""
    stem, name = path.rsplit(".", 1)
    if name == "kernel":
        return f"{stem}.weight", np.ascontiguousarray(leaf.T)
    return f"{stem}.weight" if name == "scale" else path, leaf


def _our_leaf(name: str, tensor: np.ndarray) -> tuple[str, np.ndarray]:
    stem, kind = name.rsplit(".", 1)
    if kind != "weight":
        return name, tensor
    return (f"{stem}.scale", tensor) if tensor.ndim == 1 else (f"{stem}.kernel", np.ascontiguousarray(tensor.T))


def _insert(tree: dict[str, Any], path: str, leaf: np.ndarray) -> None:
    *outer, last = path.split(".")
    for name in outer:
        tree = tree.setdefault(name, {})
    tree[last] = leaf
