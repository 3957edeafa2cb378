"""The backbone and head in plain torch, written from the method's description (DeiT's ViT without class token)."""

import math

import numpy as np
import torch
from torch.nn.functional import gelu, layer_norm, linear, normalize


def tensor(array):
    return torch.tensor(np.asarray(array))


def encode(params, images, *, patch_size, num_heads):
    """Residual stream before the first and after every block, and the normalised tokens; each [B, h * w, D]."""
    kernel = tensor(params["patch_embed"]["proj"]["kernel"])
    width = kernel.shape[1]
    # Rows of the kernel run over (y, x, channel); torch's convolution wants (out, channel, y, x).
    conv = kernel.reshape(patch_size, patch_size, 3, width).permute(3, 2, 0, 1)
    bias = tensor(params["patch_embed"]["proj"]["bias"])
    x = torch.nn.functional.conv2d(images.permute(0, 3, 1, 2), conv, bias, stride=patch_size)
    x = (x.permute(0, 2, 3, 1) + tensor(params["pos_embed"])).flatten(1, 2)
    blocks = {path: tensor(value) for path, value in flatten(params["blocks"])}
    depth = blocks["norm1.scale"].shape[0]
    stream = [x]
    for number in range(depth):
        p = {path: value[number] for path, value in blocks.items()}
        y = layer_norm(x, (width,), p["norm1.scale"], p["norm1.bias"], 1e-6)
        x = x + dense(p, "attn.proj", attention(dense(p, "attn.qkv", y), num_heads))
        y = layer_norm(x, (width,), p["norm2.scale"], p["norm2.bias"], 1e-6)
        x = x + dense(p, "mlp.fc2", gelu(dense(p, "mlp.fc1", y)))
        stream.append(x)
    return stream, layer_norm(x, (width,), tensor(params["norm"]["scale"]), tensor(params["norm"]["bias"]), 1e-6)


def head(params, modes):
    """Logits over the centroids."""
    p = {path: tensor(value) for path, value in flatten(params)}
    x = dense(p, "fc3", gelu(dense(p, "fc2", gelu(dense(p, "fc1", modes)))))
    logits = normalize(x, dim=-1) @ normalize(p["last_layer.kernel"], dim=0)
    return logits * p.get("last_layer.gain", 1.0)


def attention(qkv, num_heads):
    query, key, value = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def dense(params, name, x):
    return linear(x, params[f"{name}.kernel"].T, params[f"{name}.bias"])


def flatten(tree, prefix=""):
    for name, value in tree.items():
        yield from flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
