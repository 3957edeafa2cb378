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
    """Tensors with MLPs of two layers, `mlp.fc1` and `mlp.fc2`; the gate of a SwiGLU MLP is the first half of `fc1`."""
    layers: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    result = dict(tensors)
    for name, tensor in tensors.items():
        if (found := _LAYER.match(name)) and found[2] not in ("fc1", "fc2"):
            layers.setdefault((found[1], found[3]), {})[found[2]] = tensor
        elif found and found[2] == "fc2":
            layers.setdefault((found[1], found[3]), {})["fc2"] = tensor
    for (stem, leaf), found in layers.items():
        for gate, up, last in _APART:
            if {gate, up} <= found.keys():
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
    """Tensors in which keys have a bias of zeros, where their source has none or masks it (DINOv3, timm's too)."""
    result = dict(tensors)
    for name in tensors:
        if name.endswith(".qkv.bias_mask"):
            bias = name.removesuffix("_mask")
            mask = np.asarray(result.pop(name), np.float32)
            result[bias] = np.asarray(result[bias], np.float32) * mask if bias in result else mask
        elif name.endswith(".attn.q_bias"):
            stem = name.removesuffix("q_bias")
            query, value = (np.asarray(result.pop(f"{stem}{part}_bias", tensors[name])) for part in "qv")
            result[f"{stem}qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])
        elif name.endswith(".k_proj.weight"):
            stem = name.removesuffix("k_proj.weight")
            query, key = f"{stem}q_proj.bias", f"{stem}k_proj.bias"
            if query in result and key not in result:
                result[key] = np.zeros_like(result[query])
    return result


def _move(tensors: Tensors, old: str, new: str) -> None:
    if old in tensors and old != new:
        tensors[new] = tensors.pop(old)
