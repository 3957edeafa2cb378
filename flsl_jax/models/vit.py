"""Vision transformer as DeiT, without class token (METHOD, "Networks")."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from flsl_jax.models.layers import LayerNorm, Linear, gelu, layer_norm, linear
from flsl_jax.models.position import PosResize, resize_embedding, sincos_embedding
from flsl_jax.typing import Array, Float

_REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Attention(nnx.Module):
    """Parameters of the attention branches of all blocks."""

    def __init__(self, width: int, *, depth: int, init_std: float, rngs: nnx.Rngs) -> None:
        self.qkv = Linear(width, 3 * width, stack=depth, init_std=init_std, rngs=rngs)
        self.proj = Linear(width, width, stack=depth, init_std=init_std, rngs=rngs)


class Mlp(nnx.Module):
    """Parameters of the MLP branches of all blocks."""

    def __init__(self, width: int, hidden: int, *, depth: int, init_std: float, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(width, hidden, stack=depth, init_std=init_std, rngs=rngs)
        self.fc2 = Linear(hidden, width, stack=depth, init_std=init_std, rngs=rngs)


class Blocks(nnx.Module):
    """Parameters of all blocks, stacked along a leading axis of length L."""

    def __init__(self, width: int, hidden: int, *, depth: int, init_std: float, rngs: nnx.Rngs) -> None:
        self.norm1 = LayerNorm(width, stack=depth)
        self.attn = Attention(width, depth=depth, init_std=init_std, rngs=rngs)
        self.norm2 = LayerNorm(width, stack=depth)
        self.mlp = Mlp(width, hidden, depth=depth, init_std=init_std, rngs=rngs)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches, each flattened row by row (y, x, channel) and projected."""

    def __init__(self, patch_size: int, width: int, *, init_std: float, rngs: nnx.Rngs) -> None:
        self.proj = Linear(3 * patch_size**2, width, init_std=init_std, rngs=rngs)


class ViT(nnx.Module):
    """Pre-norm ViT over a grid of patch tokens, for images of any size that the patch divides.

    Parameters are float32 and named as in timm and DINO: `patch_embed.proj`, `pos_embed`, `blocks.{norm1, attn.qkv,
    attn.proj, norm2, mlp.fc1, mlp.fc2}` stacked over the L blocks, `norm`. Kernels start normal with `init_std` (a
    truncation at ±2, as timm has, never bites), the learned position embedding with 0.02, biases at zero.

    Args:
        patch_size: p, in pixels.
        width: D.
        depth: L.
        num_heads: heads; divides the width.
        mlp_ratio: hidden channels of the MLP over D.
        grid: token grid of the position embedding; other grids are interpolated from it.
        pos_embed: "learned", or the fixed "sincos" (no parameter).
        pos_resize: see `position.resize_embedding`.
        drop_path: drop rate of the last block; rates rise linearly from 0.
        init_std: standard deviation of the kernels at the start: 0.02 as DeiT has it; networks narrower than about 200
            channels start as almost linear maps with it, and learn much faster with 1 / √D.
        dtype: of matrix products and the residual stream; statistics and softmaxes are float32 always.
        scan_blocks: compile one block and loop over it, or all of them unrolled.
        remat: what is recomputed in the backward pass: nothing, all but matrix products ("dots"), or every block.
        attention: "xla", or "cudnn" (flash attention; NVIDIA GPUs with bfloat16 only).
    """

    def __init__(
        self,
        *,
        patch_size: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: int = 4,
        grid: tuple[int, int] = (14, 14),
        pos_embed: Literal["learned", "sincos"] = "learned",
        pos_resize: PosResize = "bicubic",
        drop_path: float = 0.0,
        init_std: float = 0.02,
        dtype: Any = jnp.float32,
        scan_blocks: bool = True,
        remat: Literal["none", "dots", "full"] = "none",
        attention: Literal["xla", "cudnn"] = "xla",
        rngs: nnx.Rngs,
    ) -> None:
        if width % num_heads:
            raise ValueError(f"width is {width}, which the {num_heads} heads do not divide")
        self.patch_size, self.width, self.depth, self.num_heads = patch_size, width, depth, num_heads
        self.grid, self.pos_resize, self.drop_path = grid, pos_resize, drop_path
        self.dtype, self.scan_blocks, self.remat, self.attention = jnp.dtype(dtype), scan_blocks, remat, attention
        self.fixed_pos_embed = pos_embed == "sincos"
        self.patch_embed = PatchEmbed(patch_size, width, init_std=init_std, rngs=rngs)
        if self.fixed_pos_embed:
            sincos_embedding(grid=grid, width=width)
        else:
            self.pos_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), (*grid, width), jnp.float32))
        self.blocks = Blocks(width, mlp_ratio * width, depth=depth, init_std=init_std, rngs=rngs)
        self.norm = LayerNorm(width)

    def __call__(
        self, images: Float[Array, "B H W 3"], *, drop_path_draws: Float[Array, "B L 2"] | None = None
    ) -> Float[Array, "B h w D"]:
        """Tokens of the images, after the final LayerNorm, float32.

        Args:
            images: normalised RGB; H and W divisible by the patch size.
            drop_path_draws: uniform in [0, 1). Block l drops sample b's attention branch where `draws[b, l, 0]` is
                below its rate, the MLP branch where `draws[b, l, 1]` is, and scales kept branches by 1 / (1 - rate).
                None keeps every branch. Drawn outside, so that the result does not depend on how the batch is split.

        Raises:
            ValueError: an image size that the patch does not divide, or images of another shape.
        """
        x, _ = self._encode(images, draws=drop_path_draws, collect=False)
        return self.norm(x).astype(jnp.float32)

    def intermediates(self, images: Float[Array, "B H W 3"]) -> Float[Array, "S B h w D"]:
        """The residual stream, S = L + 1: patch and position embedding, then each block's output; no final norm."""
        _, stream = self._encode(images, draws=None, collect=True)
        return stream.astype(jnp.float32)

    def _encode(self, images: Array, *, draws: Array | None, collect: bool) -> tuple[Array, Array | None]:
        x = self._embed(images)
        batch, height, width, channels = x.shape
        rates = np.linspace(0.0, self.drop_path, self.depth, dtype=np.float32)
        scales = None if draws is None else _branch_scales(draws, rates).astype(self.dtype)
        body = self._block
        if self.remat != "none":
            body = jax.checkpoint(body, policy=_REMAT[self.remat])
        params = nnx.to_pure_dict(nnx.state(self.blocks, nnx.Param))
        tokens, stream = _apply_blocks(
            body, x.reshape(batch, height * width, channels), params, scales, scan=self.scan_blocks, collect=collect
        )
        if stream is not None:
            stream = jnp.concatenate([x[None], stream.reshape(-1, *x.shape)])
        return tokens.reshape(x.shape), stream

    def _embed(self, images: Array) -> Float[Array, "B h w D"]:
        patch = self.patch_size
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images have shape {images.shape}; expected [B, H, W, 3]")
        height, width = images.shape[1:3]
        if height % patch or width % patch:
            raise ValueError(
                f"images are {height}×{width}, which patches of {patch} do not divide; pad them first with "
                f"flsl_jax.models.pad_to_patch(images, patch_size={patch})"
            )
        # Channels join their columns first: XLA on a CPU copies runs of 3 p values so, and not of 3.
        rows = images.astype(self.dtype).reshape(*images.shape[:2], width * 3)
        patches = rearrange(rows, "b (h y) (w x) -> b h w (y x)", y=patch, x=3 * patch)
        x = self.patch_embed.proj(patches)
        return x + self._positions(x.shape[1:3]).astype(self.dtype)

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "h w D"]:
        if self.fixed_pos_embed:
            embedding = jnp.asarray(sincos_embedding(grid=self.grid, width=self.width))
        else:
            embedding = self.pos_embed[...]
        return resize_embedding(embedding, grid=grid, mode=self.pos_resize)

    def _block(
        self, x: Float[Array, "B N D"], params: Any, scales: Float[Array, "B 2"] | None
    ) -> Float[Array, "B N D"]:
        attention, mlp = params["attn"], params["mlp"]
        mixed = self._attend(linear(layer_norm(x, **params["norm1"]), **attention["qkv"]))
        x = x + _scaled(linear(mixed, **attention["proj"]), scales, branch=0)
        hidden = gelu(linear(layer_norm(x, **params["norm2"]), **mlp["fc1"]))
        return x + _scaled(linear(hidden, **mlp["fc2"]), scales, branch=1)

    def _attend(self, qkv: Float[Array, "B N E"]) -> Float[Array, "B N D"]:
        batch, tokens, _ = qkv.shape
        query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.num_heads, -1), 2, 0)
        if self.attention == "cudnn":
            mixed = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        else:
            mixed = attend(query, key, value)
        return mixed.reshape(batch, tokens, self.width)


def attend(
    query: Float[Array, "B N heads d"], key: Float[Array, "B N heads d"], value: Float[Array, "B N heads d"]
) -> Float[Array, "B N heads d"]:
    """`softmax(q kᵀ / √d) v` as `jax.nn.dot_product_attention` has it, the softmax in float32.

    Heads are moved before the tokens first, which nearly halves the time of forward and backward pass on a CPU; scale
    and normalisation are applied to d channels a token and not to its N weights.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query * query.shape[-1] ** -0.5, key, value))
    logits = jnp.matmul(query, jnp.swapaxes(key, 2, 3), preferred_element_type=jnp.float32)
    weights = jnp.exp(logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True)))
    mixed = jnp.matmul(weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.swapaxes(mixed.astype(value.dtype), 1, 2)


def pad_to_patch(images: Float[Array, "B H W 3"], *, patch_size: int) -> Float[Array, "B P Q 3"]:
    """Images with zeros at the bottom and right, up to the next height and width that the patch divides."""
    bottom, right = (-size % patch_size for size in images.shape[1:3])
    return jnp.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)))


def _branch_scales(draws: Float[Array, "B L 2"], rates: np.ndarray) -> Float[Array, "L B 2"]:
    """0 for a dropped branch, 1 / (1 - rate) for a kept one."""
    kept = draws >= rates[None, :, None]
    return jnp.moveaxis(jnp.where(kept, 1.0 / (1.0 - rates[None, :, None]), 0.0), 1, 0)


def _scaled(branch_output: Float[Array, "B N D"], scales: Float[Array, "B 2"] | None, *, branch: int) -> Array:
    return branch_output if scales is None else branch_output * scales[:, branch, None, None]


def _apply_blocks(
    body: Callable[[Array, Any, Array | None], Array],
    x: Float[Array, "B N D"],
    params: Any,
    scales: Float[Array, "L B 2"] | None,
    *,
    scan: bool,
    collect: bool,
) -> tuple[Float[Array, "B N D"], Float[Array, "L B N D"] | None]:
    """The blocks one after the other; with `collect` also every block's output."""
    if scan:

        def step(carry: Array, layer: tuple[Any, Array | None]) -> tuple[Array, Array | None]:
            carry = body(carry, *layer)
            return carry, carry if collect else None

        return jax.lax.scan(step, x, (params, scales))
    depth = jax.tree.leaves(params)[0].shape[0]
    outputs = []
    for layer in range(depth):
        x = body(
            x, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params), None if scales is None else scales[layer]
        )
        outputs.append(x)
    return x, jnp.stack(outputs) if collect else None
