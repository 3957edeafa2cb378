"""Backbones of frameworks that are not installed here, written from their published layouts: module names, defaults, resize.

Each takes images [B, 3, H, W] and returns the patch tokens after each block and those that it hands out, [B, N, D].
"""

import math

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate


def resized(positions, grid):
    """Positions [1, n², D] at another grid, without antialias, as detectron2, mm* and transformers do."""
    side = math.isqrt(positions.shape[1])
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if grid != (side, side):
        square = interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return square.flatten(2).transpose(1, 2)


class FusedAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class TimmMlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class TimmBlock(nn.Module):
    def __init__(self, width, heads, eps):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn, self.mlp = FusedAttention(width, heads), TimmMlp(width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, width, patch, name, bias=True):
        super().__init__()
        self.add_module(name, nn.Conv2d(3, width, patch, patch, bias=bias))

    def forward(self, images):
        (conv,) = self.children()
        x = conv(images)
        return x.flatten(2).transpose(1, 2), tuple(x.shape[2:])


class Detectron2(nn.Module):
    """detectron2's and mmdet's ViTDet with global attention; no norm after the last block."""

    def __init__(self, *, width, depth, heads, patch, side, eps=1e-6, pretrain_use_cls_token=False):
        super().__init__()
        self.use_cls_token = pretrain_use_cls_token
        self.patch_embed = Patches(width, patch, "proj")
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2 + pretrain_use_cls_token, width))
        self.blocks = nn.ModuleList([TimmBlock(width, heads, eps) for _ in range(depth)])

    def forward(self, images):
        x, grid = self.patch_embed(images)
        x = x + resized(self.pos_embed[:, 1:] if self.use_cls_token else self.pos_embed, grid)
        stream = [x := block(x) for block in self.blocks]
        return stream, stream[-1]


class Release(nn.Module):
    """DINO's ViT without its class token, as in the FLSL release, where the unused token stays a parameter."""

    def __init__(self, *, width, depth, heads, patch, side, cls_token=True):
        super().__init__()
        if cls_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = Patches(width, patch, "proj")
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, width))
        self.blocks = nn.ModuleList([TimmBlock(width, heads, 1e-6) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x, grid = self.patch_embed(images)
        x = x + self.positions(grid)
        stream = [x := block(x) for block in self.blocks]
        return stream, self.norm(x)

    def positions(self, grid):
        side = math.isqrt(self.pos_embed.shape[1])
        if grid == (side, side):
            return self.pos_embed
        square = self.pos_embed.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
        return interpolate(square, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)


class MmFfn(nn.Module):
    def __init__(self, width):
        super().__init__()
        inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.0))
        self.layers = nn.Sequential(inner, nn.Linear(4 * width, width), nn.Dropout(0.0))

    def forward(self, x):
        return self.layers(x)


class MmsegAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, x)[0]


class MmBlock(nn.Module):
    def __init__(self, width, attention):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.ffn = attention, MmFfn(width)

    def forward(self, x):
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class Mmseg(nn.Module):
    """mmsegmentation's VisionTransformer with `with_cls_token=False`: token and position row exist and are sliced off."""

    def __init__(self, *, width, depth, heads, patch, side, patch_bias=True, final_norm=True):
        super().__init__()
        self.patch_embed = Patches(width, patch, "projection", bias=patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2 + 1, width))
        self.layers = nn.ModuleList([MmBlock(width, MmsegAttention(width, heads)) for _ in range(depth)])
        if final_norm:
            self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x, grid = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + torch.cat([self.pos_embed[:, :1], resized(self.pos_embed[:, 1:], grid)], dim=1)
        x = x[:, 1:]
        stream = [x := layer(x) for layer in self.layers]
        return stream, self.ln1(x)

    def init_weights(self, state):
        """What `init_cfg=dict(type="Pretrained")` does: a position embedding of another length is cut to a square."""
        rows = state["pos_embed"]
        if rows.shape != self.pos_embed.shape:
            old, new = int(math.sqrt(rows.shape[1] - 1)), math.isqrt(self.pos_embed.shape[1] - 1)
            patches = resized(rows[:, -(old**2) :], (new, new))
            state = state | {"pos_embed": torch.cat([rows[:, :1], patches], dim=1)}
        return self.load_state_dict(state, strict=False)


class Mmpretrain(nn.Module):
    """mmpretrain's VisionTransformer with `with_cls_token=False`."""

    def __init__(self, *, width, depth, heads, patch, side):
        super().__init__()
        self.patch_embed = Patches(width, patch, "projection")
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, width))
        self.layers = nn.ModuleList([MmBlock(width, FusedAttention(width, heads)) for _ in range(depth)])
        self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x, grid = self.patch_embed(images)
        x = x + resized(self.pos_embed, grid)
        stream = [x := layer(x) for layer in self.layers]
        return stream, self.ln1(x)
