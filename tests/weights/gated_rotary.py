"""Networks with SwiGLU MLPs and rotary positions: random state dicts as they are published, and a reference in NumPy.

The reference is written from the papers' and codes' descriptions: SwiGLU is `w3(silu(w1 x) * (w2 x))`; rotary positions turn
the pairs (i, i + d/2) of a head's channels by 2π times the patch's coordinate, from -1 to 1, over a period.
"""

import numpy as np
from scipy.special import erf

WIDTH, HEADS, DEPTH, PATCH, HIDDEN = 32, 2, 2, 8, 40
PERIODS = np.float32(100.0 ** (np.arange(4) / 4))
EPS = 1e-5


def dinov3(*, gated, registers=4, seed=0):
    """A state dict as DINOv3 publishes it: masked biases of keys, storage tokens, periods of its rotary positions."""
    rng = np.random.default_rng(seed)
    shapes = {"cls_token": (1, 1, WIDTH), "storage_tokens": (1, registers, WIDTH), "mask_token": (1, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH), "patch_embed.proj.bias": (WIDTH,)}
    shapes |= {f"norm.{leaf}": (WIDTH,) for leaf in ("weight", "bias")}
    layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
    if gated:
        layers |= {"mlp.w1": (HIDDEN, WIDTH), "mlp.w2": (HIDDEN, WIDTH), "mlp.w3": (WIDTH, HIDDEN)}
    else:
        layers |= {"mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH)}
    for number in range(DEPTH):
        block = f"blocks.{number}"
        shapes |= {f"{block}.{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in layers.items()}
        shapes |= {f"{block}.norm{n}.{leaf}": (WIDTH,) for n in (1, 2) for leaf in ("weight", "bias")}
        shapes |= {f"{block}.ls{n}.gamma": (WIDTH,) for n in (1, 2)}
    state = {
        name: (0.25 * rng.normal(size=shape) + name.endswith(("norm1.weight", "norm2.weight", "gamma"))).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }
    mask = np.repeat(np.float32([1, 0, 1]), WIDTH)
    state |= {f"blocks.{number}.attn.qkv.bias_mask": mask for number in range(DEPTH)}
    return state | {"rope_embed.periods": PERIODS}


def transformers_dinov3(state):
    """The same weights under the names of transformers' DINOv3ViTModel, whose keys have no bias."""
    moved = {}
    for name, tensor in state.items():
        if name == "rope_embed.periods" or name.endswith("bias_mask"):
            continue
        if ".attn.qkv." in name:
            stem, leaf = name.replace("blocks.", "layer.").split("attn.qkv.")
            for part, third in zip("qkv", np.split(tensor, 3)):
                if (part, leaf) != ("k", "bias"):
                    moved[f"{stem}attention.{part}_proj.{leaf}"] = third
            continue
        for old, new in (
            ("blocks.", "layer."), ("attn.proj", "attention.o_proj"), ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"), ("mlp.w1", "mlp.gate_proj"), ("mlp.w2", "mlp.up_proj"),
            ("mlp.w3", "mlp.down_proj"), ("mlp.fc1", "mlp.up_proj"), ("mlp.fc2", "mlp.down_proj"),
            ("patch_embed.proj", "embeddings.patch_embeddings"), ("cls_token", "embeddings.cls_token"),
            ("storage_tokens", "embeddings.register_tokens"), ("mask_token", "embeddings.mask_token"),
        ):  # fmt: skip
            name = name.replace(old, new)
        moved[name] = tensor
    return moved


def timm_dinov3(state):
    """The same weights as timm names them: LayerScale in the block, and biases of queries and values alone."""
    moved = {}
    for name, tensor in state.items():
        if name.endswith("qkv.bias"):
            query, _, value = np.split(tensor, 3)
            stem = name.removesuffix("qkv.bias")
            moved |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        elif name.endswith(("bias_mask", "periods")) or name == "mask_token":
            continue
        else:
            for old, new in (
                ("ls1.gamma", "gamma_1"), ("ls2.gamma", "gamma_2"), ("storage_tokens", "reg_token"), ("mlp.w1", "mlp.fc1_g"),
                ("mlp.w2", "mlp.fc1_x"), ("mlp.w3", "mlp.fc2"),
            ):  # fmt: skip
                name = name.replace(old, new)
            moved[name] = tensor
    return moved


def dinov2_giant(*, seed=0):
    """A state dict as DINOv2 publishes its giant: gate and what it multiplies in one layer, and learned positions."""
    state = {
        name: tensor for name, tensor in dinov3(gated=True, seed=seed).items() if name.split(".")[-1] != "bias_mask"
    }
    state = {name: tensor for name, tensor in state.items() if name not in ("rope_embed.periods", "storage_tokens")}
    for number in range(DEPTH):
        for leaf in ("weight", "bias"):
            stem = f"blocks.{number}.mlp."
            state[f"{stem}w12.{leaf}"] = np.concatenate([state.pop(f"{stem}w{n}.{leaf}") for n in (1, 2)])
    places = np.random.default_rng(seed + 1).normal(size=(1, 17, WIDTH)).astype(np.float32)
    return state | {"pos_embed": places}


def reference_tokens(state, images, *, eps=EPS):
    """Patch tokens [B, N, D] in float64; images [B, H, W, 3] of any size with rotary positions, else of 4×4 patches."""
    s = {name: np.asarray(tensor, np.float64) for name, tensor in state.items()}
    batch, rows, columns = len(images), images.shape[1] // PATCH, images.shape[2] // PATCH
    patches = images.reshape(batch, rows, PATCH, columns, PATCH, 3)
    x = np.einsum("bhywxc,dcyx->bhwd", patches, s["patch_embed.proj.weight"]) + s["patch_embed.proj.bias"]
    x = x.reshape(batch, -1, WIDTH)
    first = [s["cls_token"], *([s["storage_tokens"]] if "storage_tokens" in s else [])]
    if "pos_embed" in s:
        x, first[0] = x + s["pos_embed"][:, 1:], first[0] + s["pos_embed"][:, :1]
    first = np.concatenate(first, axis=1)
    x = np.concatenate([np.repeat(first, batch, 0), x], axis=1)
    angles = None
    if "rope_embed.periods" in s:
        angles = np.zeros((rows, columns, 2, len(PERIODS)))
        angles[:, :, 0] = ((2 * np.arange(rows) + 1) / rows - 1)[:, None, None] / s["rope_embed.periods"]
        angles[:, :, 1] = ((2 * np.arange(columns) + 1) / columns - 1)[None, :, None] / s["rope_embed.periods"]
        angles = 2 * np.pi * angles.reshape(rows * columns, -1)
    for number in range(DEPTH):
        b = {name.removeprefix(f"blocks.{number}."): t for name, t in s.items() if name.startswith(f"blocks.{number}.")}
        x = x + b["ls1.gamma"] * _attention(_norm(x, b, "norm1", eps), b, angles, prefix=first.shape[1])
        x = x + b["ls2.gamma"] * _mlp(_norm(x, b, "norm2", eps), b)
    return _norm(x, s, "norm", eps)[:, first.shape[1] :]


def _norm(x, s, name, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * s[f"{name}.weight"] + s[f"{name}.bias"]


def _linear(x, s, name):
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def _attention(x, b, angles, *, prefix):
    bias = b["attn.qkv.bias"] * b.get("attn.qkv.bias_mask", 1.0)
    qkv = (x @ b["attn.qkv.weight"].T + bias).reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    query, key, value = qkv
    if angles is not None:
        query, key = (_turned(part, angles, prefix) for part in (query, key))
    logits = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    return _linear(mixed.transpose(0, 2, 1, 3).reshape(x.shape), b, "attn.proj")


def _turned(x, angles, prefix):
    """Channel pairs (i, i + d/2) of the patches as complex numbers, turned."""
    half = x.shape[-1] // 2
    numbers = (x[..., prefix:, :half] + 1j * x[..., prefix:, half:]) * np.exp(1j * angles)
    return np.concatenate([x[..., :prefix, :], np.concatenate([numbers.real, numbers.imag], axis=-1)], axis=-2)


def _mlp(x, b):
    if "mlp.fc1.weight" in b:
        x = _linear(x, b, "mlp.fc1")
        return _linear(x * 0.5 * (1 + erf(x / np.sqrt(2))), b, "mlp.fc2")
    gate, wide = (
        np.split(_linear(x, b, "mlp.w12"), 2, axis=-1)
        if "mlp.w12.weight" in b
        else (_linear(x, b, "mlp.w1"), _linear(x, b, "mlp.w2"))
    )
    return _linear(gate / (1 + np.exp(-gate)) * wide, b, "mlp.w3")
