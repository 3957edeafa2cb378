"""What a backbone computes, apart from its parameters: enough to rebuild it from a checkpoint or a weight file."""

import dataclasses
from typing import Literal

from flsl_jax.models.position import PosResize


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A ViT as a function of its parameters; how it is trained and compiled is not part of it.

    The defaults are those of networks trained here. Other networks may have prefix tokens (class token and registers),
    LayerScale, another epsilon, or no final norm.

    Attributes:
        patch_size: p, in pixels.
        width: D.
        depth: L.
        num_heads: heads; divides the width.
        mlp_ratio: hidden channels of the MLP, divided by D.
        grid: height and width, in tokens, of the position embedding; for other grids it is interpolated.
        pos_embed: "learned", or the fixed "sincos" (no parameter).
        pos_resize: see `position.resize_embedding`.
        num_prefix: P, learned tokens without a place in the image, which precede the patches in every block.
        layer_scale: whether each branch's output is multiplied by a learned vector.
        norm_eps: epsilon of every LayerNorm.
        final_norm: whether a LayerNorm follows the last block; the backbones of detectors lack it.
        channels: C, of the images; 3 for colour.

    Raises:
        ValueError: the heads do not divide the width.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    grid: tuple[int, int] = (14, 14)
    pos_embed: Literal["learned", "sincos"] = "learned"
    pos_resize: PosResize = "bicubic"
    num_prefix: int = 0
    layer_scale: bool = False
    norm_eps: float = 1e-6
    final_norm: bool = True
    channels: int = 3

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width}, which the {self.num_heads} heads do not divide")
