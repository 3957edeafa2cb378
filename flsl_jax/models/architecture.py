"""What a backbone computes, apart from its parameters: enough to rebuild it from a checkpoint or a weight file."""

import dataclasses
from typing import Any, Literal

from flsl_jax.models.position import PosResize

_RARE = ("mlp", "mlp_hidden", "rope_periods")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """A ViT as a function of its parameters; how it is trained and compiled is not part of it.

    The defaults are those of networks trained here. Other networks may have prefix tokens (class token and registers),
    LayerScale, another epsilon, no final norm, a SwiGLU MLP, or rotary positions.

    Attributes:
        patch_size: p, in pixels.
        width: D.
        depth: L.
        num_heads: heads; divides the width.
        mlp_ratio: hidden channels of the MLP, divided by D, unless `mlp_hidden` says them.
        mlp: "gelu": `fc2(gelu(fc1(x)))`; or "swiglu": `fc2(silu(gate) * up)` with gate and up the halves of `fc1(x)`, as
            in DINOv2's giant.
        mlp_hidden: hidden channels of the MLP; 0: `mlp_ratio` times D.
        grid: height and width, in tokens, of the position embedding; for other grids it is interpolated.
        pos_embed: "learned", or the fixed "sincos" (no parameter), or "rope": queries and keys are turned by angles that
            depend on the place of their patch, as in DINOv3, and nothing is added to the tokens.
        rope_periods: of "rope" alone: the d/4 periods, for heads of d channels; see `position.rotation`.
        pos_resize: see `position.resize_embedding`.
        num_prefix: P, learned tokens without a place in the image, which precede the patches in every block.
        layer_scale: whether each branch's output is multiplied by a learned vector.
        norm_eps: epsilon of every LayerNorm.
        final_norm: whether a LayerNorm follows the last block; the backbones of detectors lack it.
        channels: C, of the images; 3 for colour.

    Raises:
        ValueError: the heads do not divide the width, or the periods do not fit its heads.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_ratio: int = 4
    grid: tuple[int, int] = (14, 14)
    pos_embed: Literal["learned", "sincos", "rope"] = "learned"
    pos_resize: PosResize = "bicubic"
    num_prefix: int = 0
    layer_scale: bool = False
    norm_eps: float = 1e-6
    final_norm: bool = True
    channels: int = 3
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_hidden: int = 0
    rope_periods: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width is {self.width}, which the {self.num_heads} heads do not divide")
        expected = self.width // self.num_heads if self.pos_embed == "rope" else 0
        if 4 * len(self.rope_periods) != expected:
            raise ValueError(f"there are {len(self.rope_periods)} rotary periods; expected {expected / 4:g}")

    @property
    def hidden(self) -> int:
        """Hidden channels of the MLP."""
        return self.mlp_hidden or self.mlp_ratio * self.width

    def written_out(self) -> "Architecture":
        """The same network with fixed sin-cos positions as parameters."""
        return dataclasses.replace(self, pos_embed="learned") if self.pos_embed == "sincos" else self

    def as_dict(self) -> dict[str, Any]:
        """The fields for a file; those that only networks from elsewhere have are left out where they have their defaults."""
        rare = {field.name: field.default for field in dataclasses.fields(self) if field.name in _RARE}
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in rare or value != rare[name]}
