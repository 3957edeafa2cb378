"""DeiT's vision transformer, without class token (docs/method.md, Networks)."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from flsl_jax.models.architecture import Architecture
from flsl_jax.models.attention import attend, attend_by_cudnn
from flsl_jax.models.layers import Init, LayerNorm, Linear, layer_norm, linear, linear_of_gelu, plus, times
from flsl_jax.models.placement import Placement
from flsl_jax.models.position import resize_embedding, rotation, sincos_embedding, turned
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
    """Parameters of the MLP branches of all blocks; `gated` ones have a gate before the hidden channels."""

    def __init__(self, width: int, hidden: int, *, gated: bool, depth: int, init_std: float, rngs: nnx.Rngs) -> None:
        self.fc1 = Linear(width, 2 * hidden if gated else hidden, stack=depth, init_std=init_std, rngs=rngs)
        self.fc2 = Linear(hidden, width, stack=depth, init_std=init_std, rngs=rngs)


class LayerScale(nnx.Module):
    """Factors of one branch's output channels in all blocks; they start at 1."""

    def __init__(self, width: int, *, depth: int) -> None:
        self.gamma = nnx.Param(jnp.ones((depth, width), jnp.float32))


class Blocks(nnx.Module):
    """Parameters of all blocks, stacked along a leading axis of length L."""

    def __init__(self, arch: Architecture, *, init_std: float, rngs: nnx.Rngs) -> None:
        width, depth = arch.width, arch.depth
        self.norm1 = LayerNorm(width, stack=depth)
        self.attn = Attention(width, depth=depth, init_std=init_std, rngs=rngs)
        self.norm2 = LayerNorm(width, stack=depth)
        self.mlp = Mlp(width, arch.hidden, gated=arch.mlp == "swiglu", depth=depth, init_std=init_std, rngs=rngs)
        if arch.layer_scale:
            self.ls1 = LayerScale(width, depth=depth)
            self.ls2 = LayerScale(width, depth=depth)


class PatchEmbed(nnx.Module):
    """Projection of non-overlapping patches, each flattened in the order y, x, channel."""

    def __init__(self, arch: Architecture, *, init: Init, init_std: float, rngs: nnx.Rngs) -> None:
        self.proj = Linear(arch.channels * arch.patch_size**2, arch.width, init=init, init_std=init_std, rngs=rngs)


@flax.struct.dataclass
class AttentionInputs:
    """Queries, keys and values of one block: float32 [B, P + h·w, heads, d] each, the P prefix tokens first."""

    query: Float[Array, "B M heads d"]
    key: Float[Array, "B M heads d"]
    value: Float[Array, "B M heads d"]


class ViT(nnx.Module):
    """Pre-norm ViT over a grid of patch tokens, for images of any size that the patch divides.

    Parameters are float32 and named as in timm and DINO: `patch_embed.proj`, `pos_embed`, `blocks.{norm1, attn.qkv,
    attn.proj, norm2, mlp.fc1, mlp.fc2}` stacked over the L blocks, `norm`. They start from normal distributions: kernels with
    standard deviation `init_std`, the learned position embedding with 0.02; biases start at zero. (timm truncates at ±2,
    which has no effect.) `patch_init` may change the start of `patch_embed.proj`. Prefix tokens, if the architecture has
    any, are `prefix` [P, D] and include their position embeddings.

    Args:
        architecture: what the network computes; see the fields of `Architecture`.
        drop_path: drop rate of the last block, in [0, 1); rates rise linearly from 0.
        init_std: initial standard deviation of the kernels. DeiT has 0.02. With it, networks narrower than about 200
            channels start as almost linear maps; they learn much faster with 1 / √D.
        patch_init: how `patch_embed.proj` starts: "normal", as the other kernels; or as in "torch", kernel and bias uniform in
            ±1/√(C p²), as in DINO and the release, which leave torch's convolution as it is. Nothing else changes.
        dtype: dtype of matrix products and of the residual stream; statistics and softmaxes are always float32.
        scan_blocks: True compiles one block and loops over it; False compiles all blocks one after the other.
        remat: what the backward pass recomputes: nothing, everything except matrix products ("dots"), or every block.
        attention: "xla", or "cudnn" (flash attention; NVIDIA GPUs with bfloat16 only).
        placement: of the arrays of a block, where parameters are spread over devices; None: as the compiler finds.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        drop_path: float = 0.0,
        init_std: float = 0.02,
        patch_init: Init = "normal",
        dtype: Any = jnp.float32,
        scan_blocks: bool = True,
        remat: Literal["none", "dots", "full"] = "none",
        attention: Literal["xla", "cudnn"] = "xla",
        placement: Placement | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        arch = architecture
        self.architecture, self.drop_path = arch, drop_path
        self.dtype, self.scan_blocks, self.remat, self.attended_by = jnp.dtype(dtype), scan_blocks, remat, attention
        self.placement = placement
        self.patch_embed = PatchEmbed(arch, init=patch_init, init_std=init_std, rngs=rngs)
        if arch.pos_embed == "sincos":
            sincos_embedding(grid=arch.grid, width=arch.width)
        elif arch.pos_embed == "learned":
            self.pos_embed = nnx.Param(0.02 * jax.random.normal(rngs.params(), (*arch.grid, arch.width), jnp.float32))
        if arch.num_prefix:
            self.prefix = nnx.Param(0.02 * jax.random.normal(rngs.params(), (arch.num_prefix, arch.width), jnp.float32))
        self.blocks = Blocks(arch, init_std=init_std, rngs=rngs)
        if arch.final_norm:
            self.norm = LayerNorm(arch.width, eps=arch.norm_eps)

    def __call__(
        self, images: Float[Array, "B H W C"], *, drop_path_draws: Float[Array, "B L 2"] | None = None
    ) -> Float[Array, "B h w D"]:
        """The tokens of the images, float32, after the final LayerNorm if there is one.

        Args:
            images: normalised; the patch size divides H and W.
            drop_path_draws: uniform numbers in [0, 1). Block l drops the attention branch of sample b if `draws[b, l, 0]` is
                below the block's rate, and the MLP branch if `draws[b, l, 1]` is; it scales the branches that it keeps by
                1 / (1 - rate). None keeps every branch. The numbers are drawn by the caller, so that the result does not
                depend on how the batch is split.

        Raises:
            ValueError: the patch size does not divide H and W, or the images do not have the shape [B, H, W, C].
        """
        stream, grid = self._embed(images)
        tokens, _ = self._apply(stream, self._block_params(), grid=grid, draws=drop_path_draws)
        patches = self._patches(tokens, grid)
        return (self.norm(patches) if self.architecture.final_norm else patches).astype(jnp.float32)

    def intermediates(self, images: Float[Array, "B H W C"]) -> Float[Array, "S B h w D"]:
        """The residual stream, float32, S = L + 1: patches with their positions, then each block's output; no final norm."""
        embedded, grid = self._embed(images)
        _, outputs = self._apply(embedded, self._block_params(), grid=grid, collect=True)
        assert outputs is not None
        stream = jnp.concatenate([embedded[None], outputs])
        return jax.vmap(lambda tokens: self._patches(tokens, grid))(stream).astype(jnp.float32)

    def attention_inputs(self, images: Float[Array, "B H W C"], *, block: int = -1) -> AttentionInputs:
        """Queries, keys and values of one block, for pictures of its attention; negative numbers count from the last block.

        Raises:
            IndexError: there is no such block.
        """
        tokens, grid = self._embed(images)
        params, number = self._block_params(), range(self.architecture.depth)[block]
        if number:
            tokens, _ = self._apply(tokens, jax.tree.map(lambda leaf: leaf[:number], params), grid=grid)
        own = jax.tree.map(lambda leaf: leaf[number], params)
        qkv = linear(self._normalised(tokens, own["norm1"]), **own["attn"]["qkv"]).astype(jnp.float32)
        return AttentionInputs(*self._heads(qkv, self._rotation(grid)))

    def _block_params(self) -> Any:
        return nnx.to_pure_dict(nnx.state(self.blocks, nnx.Param))

    def _apply(
        self,
        x: Float[Array, "B M D"],
        params: Any,
        *,
        grid: tuple[int, int],
        draws: Array | None = None,
        collect: bool = False,
    ) -> tuple[Float[Array, "B M D"], Float[Array, "L B M D"] | None]:
        """Runs the blocks whose parameters are given; with `collect`, every block's output is returned too.

        Between the blocks, all tokens of the batch are rows of one matrix, because every product with a kernel needs them so.
        """
        batch, tokens, width = x.shape
        scales = None
        if draws is not None:
            rates = np.linspace(0.0, self.drop_path, self.architecture.depth, dtype=np.float32)
            scales = jnp.repeat(_branch_scales(draws, rates).astype(self.dtype), tokens, axis=1)
        body = functools.partial(self._block, batch=batch, turn=self._rotation(grid))
        if self.remat != "none":
            body = jax.checkpoint(body, policy=_REMAT[self.remat])
        rows = x.reshape(batch * tokens, width)
        rows, outputs = _apply_blocks(body, rows, params, scales, scan=self.scan_blocks, collect=collect)
        return rows.reshape(x.shape), None if outputs is None else outputs.reshape(-1, *x.shape)

    def _patches(self, tokens: Float[Array, "B M D"], grid: tuple[int, int]) -> Float[Array, "B h w D"]:
        """The patch tokens on their grid, without the prefix."""
        return tokens[:, self.architecture.num_prefix :].reshape(tokens.shape[0], *grid, -1)

    def _normalised(self, x: Float[Array, "*b D"], params: Any) -> Float[Array, "*b D"]:
        return layer_norm(x, **params, eps=self.architecture.norm_eps)

    def _embed(self, images: Array) -> tuple[Float[Array, "B M D"], tuple[int, int]]:
        """The input of the first block, with the prefix first, and the height and width of the grid of patches."""
        patch = self.architecture.patch_size
        channels = self.architecture.channels
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(f"images have shape {images.shape}; expected [B, H, W, {channels}]")
        height, width = images.shape[1:3]
        if height % patch or width % patch:
            raise ValueError(
                f"images are {height}×{width}, which patches of {patch} do not divide; pad them first with "
                f"flsl_jax.models.pad_to_patch(images, patch_size={patch})"
            )
        # Columns and channels become one axis first: XLA on a CPU then copies runs of C p values instead of runs of C.
        rows = images.astype(self.dtype).reshape(*images.shape[:2], width * channels)
        patches = rearrange(rows, "b (h y) (w x) -> b h w (y x)", y=patch, x=channels * patch)
        grid = (height // patch, width // patch)
        x = self.patch_embed.proj(patches)
        if self.architecture.pos_embed != "rope":
            x = plus(x, self._positions(grid))
        x = rearrange(x, "b h w d -> b (h w) d")
        if self.architecture.num_prefix:
            prefix = self.prefix[...]
            x = jnp.concatenate([plus(jnp.zeros((x.shape[0], *prefix.shape), self.dtype), prefix), x], axis=1)
        return x, grid

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "h w D"]:
        arch = self.architecture
        if arch.pos_embed == "sincos":
            embedding = jnp.asarray(sincos_embedding(grid=arch.grid, width=arch.width))
        else:
            embedding = self.pos_embed[...]
        return resize_embedding(embedding, grid=grid, mode=arch.pos_resize)

    def _rotation(self, grid: tuple[int, int]) -> Float[np.ndarray, "2 N d"] | None:
        periods = self.architecture.rope_periods
        return rotation(grid=grid, periods=periods) if periods else None

    def _block(
        self,
        x: Float[Array, "R D"],
        params: Any,
        scales: Float[Array, "R 2"] | None,
        *,
        batch: int,
        turn: Float[np.ndarray, "2 N d"] | None,
    ) -> Float[Array, "R D"]:
        if self.placement is not None:
            place = self.placement
            # Kernels are gathered where they are used, in the dtype of the products.
            x, params = place.rows(x), jax.tree.map(lambda leaf: place.whole(leaf) if leaf.ndim == 1 else leaf, params)
        attention, mlp = params["attn"], params["mlp"]
        qkv = self._linear(self._normalised(x, params["norm1"]), attention["qkv"])
        mixed = self._attend(qkv.reshape(batch, -1, qkv.shape[-1]), turn).reshape(x.shape)
        x = x + _scaled(self._linear(mixed, attention["proj"]), params.get("ls1"), scales, branch=0)
        hidden = self._linear(self._normalised(x, params["norm2"]), mlp["fc1"])
        if self.architecture.mlp == "swiglu":
            gate, wide = jnp.split(hidden, 2, axis=-1)
            narrow = self._linear(jax.nn.silu(gate.astype(jnp.float32)).astype(gate.dtype) * wide, mlp["fc2"])
        else:
            narrow = linear_of_gelu(hidden, **mlp["fc2"], placement=self.placement)
        return x + _scaled(narrow, params.get("ls2"), scales, branch=1)

    def _linear(self, x: Float[Array, "R i"], params: Any) -> Float[Array, "R o"]:
        return linear(x, **params, placement=self.placement)

    def _heads(
        self, qkv: Float[Array, "B M E"], turn: Float[np.ndarray, "2 N d"] | None
    ) -> list[Float[Array, "B M heads d"]]:
        """Query, key and value; the first two turned by their places where the network has rotary positions."""
        # Split along the heads: with a split along channels, XLA on a CPU copies the gradient twice, once very slowly.
        query, key, value = jnp.split(
            rearrange(qkv, "b m (heads d) -> b m heads d", heads=3 * self.architecture.num_heads), 3, axis=2
        )
        return [query, key, value] if turn is None else [turned(query, turn), turned(key, turn), value]

    def _attend(self, qkv: Float[Array, "B M E"], turn: Float[np.ndarray, "2 N d"] | None) -> Float[Array, "B M D"]:
        query, key, value = self._heads(qkv, turn)
        if self.attended_by == "cudnn":
            mixed = attend_by_cudnn(query, key, value)
        else:
            mixed = attend(query, key, value)
        return rearrange(mixed, "b m heads d -> b m (heads d)")


def pad_to_patch(images: Float[Array, "B H W C"], *, patch_size: int) -> Float[Array, "B P Q C"]:
    """Pads images with zeros at the bottom and right, to the next height and width that the patch divides."""
    bottom, right = (-size % patch_size for size in images.shape[1:3])
    return jnp.pad(images, ((0, 0), (0, bottom), (0, right), (0, 0)))


def _branch_scales(draws: Float[Array, "B L 2"], rates: np.ndarray) -> Float[Array, "L B 2"]:
    """0 for a dropped branch, 1 / (1 - rate) for a kept one."""
    kept = draws >= rates[None, :, None]
    return jnp.moveaxis(jnp.where(kept, 1.0 / (1.0 - rates[None, :, None]), 0.0), 1, 0)


def _scaled(
    branch_output: Float[Array, "R D"], layer_scale: Any | None, drop_scales: Float[Array, "R 2"] | None, *, branch: int
) -> Float[Array, "R D"]:
    if layer_scale is not None:
        branch_output = times(branch_output, layer_scale["gamma"])
    return branch_output if drop_scales is None else branch_output * drop_scales[:, branch, None]


def _apply_blocks(
    body: Callable[[Array, Any, Array | None], Array],
    x: Float[Array, "R D"],
    params: Any,
    scales: Float[Array, "L R 2"] | None,
    *,
    scan: bool,
    collect: bool,
) -> tuple[Float[Array, "R D"], Float[Array, "L R D"] | None]:
    """Applies the blocks one after the other; with `collect`, every block's output is returned too."""
    if scan:

        def step(carry: Array, layer: tuple[Any, Array | None]) -> tuple[Array, Array | None]:
            carry = body(carry, *layer)
            return carry, carry if collect else None

        return jax.lax.scan(step, x, (params, scales))
    leaves, structure = jax.tree.flatten(params)
    outputs = []
    for layer, own in enumerate(zip(*map(jnp.unstack, leaves))):
        x = body(x, jax.tree.unflatten(structure, own), None if scales is None else scales[layer])
        outputs.append(x)
    return x, jnp.stack(outputs) if collect else None
