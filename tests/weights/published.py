"""State dicts as other code publishes them: golden lists of names and shapes, random tensors, and a torch twin.

Written from each layout's publication, for code that cannot be installed where tests run. D: width, p: patch, N: patches,
E: hidden channels, K: outputs of a head; {n} runs over the blocks.
"""

import math

import numpy as np

SIZES = {"D": 64, "p": 8, "N": 16, "E": 256, "K": 24}
HEADS, DEPTH = 4, 2

_BLOCK = """
blocks.{n}.norm1.weight D
blocks.{n}.norm1.bias D
blocks.{n}.attn.qkv.weight 3*D D
blocks.{n}.attn.qkv.bias 3*D
blocks.{n}.attn.proj.weight D D
blocks.{n}.attn.proj.bias D
blocks.{n}.norm2.weight D
blocks.{n}.norm2.bias D
blocks.{n}.mlp.fc1.weight E D
blocks.{n}.mlp.fc1.bias E
blocks.{n}.mlp.fc2.weight D E
blocks.{n}.mlp.fc2.bias D
"""
_ENDS = """
patch_embed.proj.weight D 3 p p
patch_embed.proj.bias D
norm.weight D
norm.bias D
"""
_PLAIN = _BLOCK + _ENDS + "cls_token 1 1 D\npos_embed 1 N+1 D\n"
_HEAD = """
head.mlp.0.weight 32 D
head.mlp.0.bias 32
head.mlp.2.weight 32 32
head.mlp.2.bias 32
head.mlp.4.weight 16 32
head.mlp.4.bias 16
head.last_layer.weight_g K 1
head.last_layer.weight_v K 16
"""
_DINOV2 = _PLAIN + "mask_token 1 D\nblocks.{n}.ls1.gamma D\nblocks.{n}.ls2.gamma D\n"
_DECODER = """
mask_token 1 1 32
decoder_pos_embed 1 N+1 32
decoder_embed.weight 32 D
decoder_embed.bias 32
decoder_blocks.0.norm1.weight 32
decoder_blocks.0.attn.qkv.weight 96 32
decoder_norm.weight 32
decoder_pred.weight 3*p*p 32
decoder_pred.bias 3*p*p
"""
_TORCHVISION = """
class_token 1 1 D
conv_proj.weight D 3 p p
conv_proj.bias D
encoder.pos_embedding 1 N+1 D
encoder.layers.encoder_layer_{n}.ln_1.weight D
encoder.layers.encoder_layer_{n}.ln_1.bias D
encoder.layers.encoder_layer_{n}.self_attention.in_proj_weight 3*D D
encoder.layers.encoder_layer_{n}.self_attention.in_proj_bias 3*D
encoder.layers.encoder_layer_{n}.self_attention.out_proj.weight D D
encoder.layers.encoder_layer_{n}.self_attention.out_proj.bias D
encoder.layers.encoder_layer_{n}.ln_2.weight D
encoder.layers.encoder_layer_{n}.ln_2.bias D
encoder.layers.encoder_layer_{n}.mlp.linear_1.weight E D
encoder.layers.encoder_layer_{n}.mlp.linear_1.bias E
encoder.layers.encoder_layer_{n}.mlp.linear_2.weight D E
encoder.layers.encoder_layer_{n}.mlp.linear_2.bias D
encoder.ln.weight D
encoder.ln.bias D
heads.head.weight 10 D
heads.head.bias 10
"""
_MMPRETRAIN = """
cls_token 1 1 D
pos_embed 1 N+1 D
patch_embed.projection.weight D 3 p p
patch_embed.projection.bias D
layers.{n}.ln1.weight D
layers.{n}.ln1.bias D
layers.{n}.attn.qkv.weight 3*D D
layers.{n}.attn.qkv.bias 3*D
layers.{n}.attn.proj.weight D D
layers.{n}.attn.proj.bias D
layers.{n}.ln2.weight D
layers.{n}.ln2.bias D
layers.{n}.ffn.layers.0.0.weight E D
layers.{n}.ffn.layers.0.0.bias E
layers.{n}.ffn.layers.1.weight D E
layers.{n}.ffn.layers.1.bias D
ln1.weight D
ln1.bias D
"""

# By source: the list, and what stands before each backbone name.
DINO = _PLAIN + _HEAD
IBOT = _PLAIN + "masked_embed 1 D\n" + _HEAD + "head.last_layer2.weight_g K 1\nhead.last_layer2.weight_v K 16\n"
FLSL = _PLAIN.replace("pos_embed 1 N+1 D", "pos_embed 1 N D") + _HEAD
DINOV2 = _DINOV2
DINOV2_REGISTERS = _DINOV2 + "register_tokens 1 4 D\n"
MAE = _PLAIN + _DECODER
MAE_ENCODER = _PLAIN
DEIT = _PLAIN.replace("N+1", "N+2") + "dist_token 1 1 D\nhead.weight 10 D\nhead.bias 10\nhead_dist.weight 10 D\n"
TORCHVISION = _TORCHVISION
MMPRETRAIN = _MMPRETRAIN


def random_state(golden, *, prefix="", seed=0):
    """Random tensors for a golden list; `prefix` before all names but the head's, whose own is `prefix`'s first part."""
    rng = np.random.default_rng(seed)
    state = {}
    for line in golden.split("\n"):
        if not line:
            continue
        name, *dims = line.split()
        shape = tuple(eval(dim, {"__builtins__": {}}, SIZES) for dim in dims)
        for full in [name.replace("{n}", str(n)) for n in range(DEPTH)] if "{n}" in name else [name]:
            own = prefix.removesuffix("backbone.") if full.startswith("head.") else prefix
            state[own + full] = (0.2 * rng.normal(size=shape) + (len(shape) == 1)).astype(np.float32)
    return state


def twin_tokens(state, images, *, tokens=("cls_token",), rows=1, resize="bicubic", eps=1e-6):
    """Patch tokens [B, N, D] by plain torch from a state dict under timm's names.

    Args:
        state: timm-named NumPy arrays of one backbone.
        images: torch [B, 3, H, W].
        tokens: names of the tokens before the patches, in order.
        rows: how many of them the position embedding has a row for.
        resize: "bicubic" to a size, "dino" by a scale factor with 0.1 added to the size, or "antialias".
        eps: of LayerNorm.
    """
    import torch
    from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, linear, scaled_dot_product_attention

    p = {name: torch.tensor(value) for name, value in state.items()}
    width, patch = p["patch_embed.proj.weight"].shape[0], p["patch_embed.proj.weight"].shape[-1]
    x = conv2d(images, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=patch)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    places = p["pos_embed"][:, rows:]
    side = math.isqrt(places.shape[1])
    if grid != (side, side):
        places = places.reshape(1, side, side, width).permute(0, 3, 1, 2)
        if resize == "dino":
            factor = tuple((size + 0.1) / side for size in grid)
            places = interpolate(places, scale_factor=factor, mode="bicubic")
        else:
            places = interpolate(places, size=grid, mode="bicubic", antialias=resize == "antialias")
        assert places.shape[-2:] == grid
        places = places.permute(0, 2, 3, 1).reshape(1, -1, width)
    first = torch.cat([p[name] for name in tokens], dim=1) if tokens else torch.zeros(1, 0, width)
    if tokens:
        first = torch.cat([first[:, :rows] + p["pos_embed"][:, :rows], first[:, rows:]], dim=1)
        x = torch.cat([first.expand(len(x), -1, -1), x + places], dim=1)
    else:
        x = x + places
    for n in range(DEPTH):
        b = {name.removeprefix(f"blocks.{n}."): value for name, value in p.items() if name.startswith(f"blocks.{n}.")}
        y = layer_norm(x, (width,), b["norm1.weight"], b["norm1.bias"], eps)
        qkv = linear(y, b["attn.qkv.weight"], b["attn.qkv.bias"]).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
        x = x + linear(mixed, b["attn.proj.weight"], b["attn.proj.bias"]) * b.get("ls1.gamma", 1.0)
        y = layer_norm(x, (width,), b["norm2.weight"], b["norm2.bias"], eps)
        y = gelu(linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"]) * b.get("ls2.gamma", 1.0)
    if "norm.weight" in p:
        x = layer_norm(x, (width,), p["norm.weight"], p["norm.bias"], eps)
    return x[:, first.shape[1] :]
