"""Layers of a block that some sources split or mask, brought to one form: gates of SwiGLU MLPs, biases of keys."""

import re

import numpy as np

from flsl_jax.weights.canonical import Tensors

# Gate, what it multiplies, and what follows: DINOv3, transformers, timm's SwiGLU.
_APART = (("w1", "w2", "w3"), ("gate_proj", "up_proj", "down_proj"), ("fc1_g", "fc1_x", "fc2"))
# The same with the gate in front of what it multiplies, in one layer: DINOv2, transformers 4.
_JOINED = (("w12", "w3"), ("weights_in", "weights_out"), ("up_proj", "down_proj"))
_LAYER = re.compile(r"^(.*\.mlp\.)(\w+)\.(weight|bias)$")


def gates_joined(tensors: Tensors) -> Tensors:
    """Tensors with MLPs of two layers, `mlp.fc1` and `mlp.fc2`; the gate of a SwiGLU MLP is the first half of `fc1`.

    What does not go together keeps its names, and so does a layer whose new name another one has.
    """
    layers: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    result = dict(tensors)
    for name, tensor in tensors.items():
        if found := _LAYER.match(name):
            layers.setdefault((found[1], found[3]), {})[found[2]] = tensor
    for (stem, leaf), found in layers.items():
        for gate, up, last in _APART:
            if {gate, up} <= found.keys() and "fc1" not in found and _fit(found[gate], found[up]):
                joined = np.concatenate([np.asarray(result.pop(f"{stem}{part}.{leaf}")) for part in (gate, up)])
                result[f"{stem}fc1.{leaf}"] = joined
                _move(result, f"{stem}{last}.{leaf}", f"{stem}fc2.{leaf}")
                break
        else:
            for first, last in _JOINED:
                _move(result, f"{stem}{first}.{leaf}", f"{stem}fc1.{leaf}")
                _move(result, f"{stem}{last}.{leaf}", f"{stem}fc2.{leaf}")
    return result


def key_biases_settled(tensors: Tensors) -> Tensors:
    """Tensors in which keys have a bias of zeros, where their source has none or masks it (DINOv3, timm's too).

    What does not go together keeps its names.
    """
    result = dict(tensors)
    for name in tensors:
        if name.endswith(".qkv.bias_mask"):
            bias = name.removesuffix("_mask")
            if bias in result and _fit(result[bias], result[name]):
                result[bias] = np.asarray(result[bias], np.float32) * np.asarray(result.pop(name), np.float32)
        elif name.endswith(".attn.q_bias"):
            stem = name.removesuffix("q_bias")
            values, joined = f"{stem}v_bias", f"{stem}qkv.bias"
            if values in result and joined not in result and _fit(result[name], result[values]):
                query, value = (np.asarray(result.pop(part)) for part in (name, values))
                result[joined] = np.concatenate([query, np.zeros_like(query), value])
        elif name.endswith(".k_proj.weight"):
            stem = name.removesuffix("k_proj.weight")
            query, key = f"{stem}q_proj.bias", f"{stem}k_proj.bias"
            if query in result and key not in result:
                result[key] = np.zeros_like(result[query])
    return result


def _fit(first: np.ndarray, second: np.ndarray) -> bool:
    return first.ndim > 0 and first.shape == second.shape


def _move(tensors: Tensors, old: str, new: str) -> None:
    if old in tensors and new not in tensors:
        tensors[new] = tensors.pop(old)
