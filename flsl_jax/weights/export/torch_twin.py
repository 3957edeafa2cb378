"""The backbone in PyTorch, with canonical tensor names; written files are compared with it if their framework is missing.

Only code that has found PyTorch installed imports this module.
"""

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention, silu

from flsl_jax.models import Architecture
from flsl_jax.models.position import PosResize, rotation

# Height and width of an image or of its grid of tokens: symbols while torch.export reads a network, which PyTorch's own types
# call int too.
if TYPE_CHECKING:
    Side = int
else:
    Side = int | torch.SymInt
Sides = tuple[Side, Side]


@dataclasses.dataclass(frozen=True)
class TwinOutputs:
    """Patch tokens [B, N, D]: `blocks` after each block, `tokens` after the final norm if there is one."""

    blocks: list[torch.Tensor]
    tokens: torch.Tensor


class TwinBlock(nn.Module):
    """One pre-norm block."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, hidden = architecture.width, architecture.hidden
        self.num_heads = architecture.num_heads
        self.norm1 = nn.LayerNorm(width, eps=architecture.norm_eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.norm2 = nn.LayerNorm(width, eps=architecture.norm_eps)
        self.gated = architecture.mlp == "swiglu"
        outputs = 2 * hidden if self.gated else hidden
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, outputs), "fc2": nn.Linear(hidden, width)})
        if architecture.layer_scale:
            self.ls1 = nn.ParameterDict({"gamma": torch.ones(width)})
            self.ls2 = nn.ParameterDict({"gamma": torch.ones(width)})
        self.scaled = architecture.layer_scale

    def forward(self, x: torch.Tensor, turn: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens to tokens; `turn` [2, N, d] has sine and cosine of rotary positions."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        )
        if turn is not None:
            query, key = _turned(query, turn), _turned(key, turn)
        mixed = self.attn["proj"](scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        x = x + (mixed * self.ls1["gamma"] if self.scaled else mixed)
        hidden = self.mlp["fc2"](self._bent(self.mlp["fc1"](self.norm2(x))))
        return x + (hidden * self.ls2["gamma"] if self.scaled else hidden)

    def _bent(self, x: torch.Tensor) -> torch.Tensor:
        if not self.gated:
            return gelu(x)
        gate, wide = x.chunk(2, dim=-1)
        return silu(gate) * wide


def _turned(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """The last N of [B, heads, M, d], turned by their angles."""
    prefix = x.shape[2] - turn.shape[1]
    first, second = x[:, :, prefix:].chunk(2, dim=-1)
    placed = torch.cat([first, second], dim=-1) * turn[1] + torch.cat([-second, first], dim=-1) * turn[0]
    return torch.cat([x[:, :, :prefix], placed], dim=2)


class TorchViT(nn.Module):
    """The network of an `Architecture`; its state's names and shapes are those of `canonical.backbone_tensors`.

    Args:
        architecture: the network, except for its `pos_resize`, which is the next argument.
        pos_resize: how the position embedding is resized; None: the network takes only the image size of its embedding.
        final_norm: whether there is a norm after the last block.
    """

    def __init__(self, architecture: Architecture, *, pos_resize: PosResize | None, final_norm: bool = True) -> None:
        super().__init__()
        arch = architecture
        self.architecture, self.pos_resize = arch, pos_resize
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(arch.channels, arch.width, arch.patch_size, stride=arch.patch_size)}
        )
        if arch.pos_embed == "rope":
            self.register_buffer("rope_periods", torch.tensor(arch.rope_periods))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, arch.grid[0] * arch.grid[1], arch.width))
        if arch.num_prefix:
            self.prefix = nn.Parameter(torch.zeros(1, arch.num_prefix, arch.width))
        self.blocks = nn.ModuleList([TwinBlock(arch) for _ in range(arch.depth)])
        self.norm = nn.LayerNorm(arch.width, eps=arch.norm_eps) if final_norm else nn.Identity()

    def forward(self, images: torch.Tensor) -> TwinOutputs:
        """Outputs for normalised images [B, C, H, W].

        Raises:
            ValueError: the images have another size than the embedding, and `pos_resize` is None.
        """
        prefix = self.architecture.num_prefix
        x = self.patch_embed["proj"](images)
        turn = None
        if self.architecture.pos_embed == "rope":
            turn = torch.from_numpy(rotation(grid=tuple(x.shape[2:]), periods=self.architecture.rope_periods))
        else:
            x = x + self._positions(tuple(x.shape[2:]))
        x = x.flatten(2).transpose(1, 2)
        if prefix:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        blocks = []
        for block in self.blocks:
            x = block(x, turn)
            blocks.append(x[:, prefix:])
        return TwinOutputs(blocks=blocks, tokens=self.norm(x)[:, prefix:])

    def _positions(self, grid: Sides) -> torch.Tensor:
        own = self.architecture.grid
        positions = self.pos_embed.reshape(1, *own, -1).permute(0, 3, 1, 2)
        if grid == own:
            return positions
        if self.pos_resize is None:
            raise ValueError(f"a grid of {grid} tokens; this network takes {own} only")
        if self.pos_resize == "bicubic_dino":
            scale = tuple((new + 0.1) / old for new, old in zip(grid, own))
            return interpolate(positions, scale_factor=scale, mode="bicubic")
        return interpolate(positions, size=grid, mode="bicubic", antialias=self.pos_resize == "bicubic_antialias")
