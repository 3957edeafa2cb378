"""The backbone of a detector or segmenter in PyTorch: the ViT of a run or weight file, with what fine-tuning adds to it."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate, pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from flsl_jax.models import Architecture
from flsl_jax.weights.export.torch_twin import Side, Sides, TorchViT, TwinBlock


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneOptions:
    """What fine-tuning adds to a pretrained network.

    Attributes:
        drop_path: how often the last block's branches are left out in training, 0 to below 1; those of earlier blocks in
            proportion to their depth, as in timm.
        window: tokens along the side of a window of attention; 0: attention over the whole image.
        global_blocks: numbers of the blocks that attend over the whole image in spite of `window`.
        relative_grid: (height, width) of the grid of tokens that the decomposed relative positions are made for; None: none.
        checkpointing: recomputes blocks in the backward pass instead of keeping their activations.
    """

    drop_path: float = 0.0
    window: int = 0
    global_blocks: tuple[int, ...] = ()
    relative_grid: tuple[int, int] | None = None
    checkpointing: bool = False


class Block(TwinBlock):
    """A block of the pretrained network with windows, relative positions and stochastic depth.

    Args:
        architecture: of the network.
        drop_path: how often a branch is left out in training.
        window: tokens along the side of a window; 0: none.
        relative_grid: the grid of its attention for relative positions; None: none.
    """

    def __init__(
        self, architecture: Architecture, *, drop_path: float, window: int, relative_grid: tuple[int, int] | None
    ) -> None:
        super().__init__(architecture)
        self._drop_path, self._window = drop_path, window
        self.rel_pos_h = self.rel_pos_w = None
        if relative_grid is not None:
            channels = architecture.width // architecture.num_heads
            self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * n - 1, channels)) for n in relative_grid)

    def forward(self, x: torch.Tensor, grid: Sides) -> torch.Tensor:
        """Tokens [B, P + h·w, D] to tokens of the same shape; `grid` is (h, w), and P is 0 with windows."""
        tokens = self.norm1(x)
        mixed = self._windowed(tokens, grid) if self._window else self._attend(tokens, grid)
        x = x + self._dropped(mixed * self.ls1["gamma"] if self.scaled else mixed)
        hidden = self.mlp["fc2"](gelu(self.mlp["fc1"](self.norm2(x))))
        return x + self._dropped(hidden * self.ls2["gamma"] if self.scaled else hidden)

    def _windowed(self, tokens: torch.Tensor, grid: Sides) -> torch.Tensor:
        """Attention within windows; the grid is padded with zeros on its right and at its bottom, as in ViTDet."""
        size, (height, width) = self._window, grid
        rows, columns = math.ceil(height / size), math.ceil(width / size)
        image = pad(tokens.unflatten(1, grid), (0, 0, 0, columns * size - width, 0, rows * size - height))
        windows = image.unflatten(2, (columns, size)).unflatten(1, (rows, size)).transpose(2, 3)
        mixed = self._attend(windows.flatten(3, 4).flatten(0, 2), (size, size))
        image = (
            mixed.unflatten(1, (size, size))
            .unflatten(0, (-1, rows, columns))
            .transpose(2, 3)
            .flatten(3, 4)
            .flatten(1, 2)
        )
        return image[:, :height, :width].flatten(1, 2)

    def _attend(self, tokens: torch.Tensor, grid: Sides) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](tokens).chunk(3, dim=-1)
        )
        bias = None if self.rel_pos_h is None else self._relative(query, grid)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.attn["proj"](mixed.transpose(1, 2).flatten(2))

    def _relative(self, query: torch.Tensor, grid: Sides) -> torch.Tensor:
        """The decomposed relative positions of ViTDet (Li et al. 2022, MViTv2): [B, heads, h·w, h·w], from unscaled queries."""
        assert self.rel_pos_h is not None
        assert self.rel_pos_w is not None
        placed = query.unflatten(2, grid)
        rows = torch.einsum("bnhwc,hkc->bnhwk", placed, _between(self.rel_pos_h, grid[0]))
        columns = torch.einsum("bnhwc,wkc->bnhwk", placed, _between(self.rel_pos_w, grid[1]))
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)

    def _dropped(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self._drop_path == 0:
            return branch
        kept = 1 - self._drop_path
        return branch * torch.empty(len(branch), 1, 1, device=branch.device, dtype=branch.dtype).bernoulli_(kept).div_(
            kept
        )


def _between(embedding: torch.Tensor, size: Side) -> torch.Tensor:
    """The vector between any two of `size` places, [size, size, C]; of an embedding for another size by linear resizing."""
    if len(embedding) != 2 * size - 1:
        embedding = interpolate(embedding.T[None], size=2 * size - 1, mode="linear")[0].T
    places = torch.arange(size, device=embedding.device)
    return embedding[places[:, None] - places[None, :] + size - 1]


class DetectorViT(TorchViT):
    """The backbone, whose forward pass gives maps of tokens after some of its blocks, before the final norm.

    Args:
        architecture: of the pretrained network. Its final norm is left out, as detectors have it; so are class token and
            registers where there are windows, because those have no place in them.
        options: what fine-tuning adds.
        blocks: numbers of the blocks whose outputs are wanted, from 0; none is smaller than the one before it.

    Raises:
        ValueError: a block does not exist, the relative positions do not fit the network, or the drop path is not below 1.
    """

    def __init__(self, architecture: Architecture, *, options: BackboneOptions, blocks: Sequence[int]) -> None:
        kept = dataclasses.replace(architecture, num_prefix=0) if options.window else architecture
        _check(kept, options=options, blocks=blocks)
        super().__init__(kept, pos_resize=architecture.pos_resize, final_norm=False)
        depth = architecture.depth
        self.wanted, self._checkpointing = tuple(blocks), options.checkpointing
        windows = [0 if number in options.global_blocks else options.window for number in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                kept,
                drop_path=options.drop_path * number / max(1, depth - 1),
                window=window,
                relative_grid=(window, window) if window and options.relative_grid else options.relative_grid,
            )
            for number, window in enumerate(windows)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Maps [B, D, h, w] after the wanted blocks, of normalised RGB images [B, 3, H, W] that the patch size divides."""
        prefix = self.architecture.num_prefix
        x = self.patch_embed["proj"](images)
        grid = (x.shape[2], x.shape[3])
        x = (x + self._positions(grid)).flatten(2).transpose(1, 2)
        if prefix:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], dim=1)
        maps = []
        for number, block in enumerate(self.blocks[: self.wanted[-1] + 1]):
            again = self._checkpointing and self.training
            x = checkpoint(block, x, grid, use_reentrant=False) if again else block(x, grid)
            maps += [x[:, prefix:].transpose(1, 2).unflatten(2, grid)] * self.wanted.count(number)
        return maps


def _check(architecture: Architecture, *, options: BackboneOptions, blocks: Sequence[int]) -> None:
    depth = architecture.depth
    for name, numbers in {"blocks": blocks, "global blocks": options.global_blocks}.items():
        if list(numbers) != sorted(numbers) or not set(numbers) <= set(range(depth)):
            raise ValueError(
                f"{name} {tuple(numbers)} of a network of {depth} blocks; expected numbers from 0 to {depth - 1}"
            )
    if not blocks:
        raise ValueError("no block's output is wanted; expected at least one")
    if options.relative_grid and architecture.num_prefix:
        raise ValueError(
            "relative positions beside a class token or registers; expected windows, which leave those out"
        )
    if not 0 <= options.drop_path < 1:
        raise ValueError(f"a drop path of {options.drop_path}; expected from 0 to below 1")
