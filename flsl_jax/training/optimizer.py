"""AdamW (docs/method.md, Training): masked decay, clip by tensor or globally, parts that start frozen, slower layers."""

from collections.abc import Hashable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flsl_jax.typing import Array, Float, Int

Params = Any

_LAST_LAYER, _BACKBONE, _BODY = "last_layer", "backbone", "body"
# What makes the input of the first block.
_EMBEDDING = frozenset({"patch_embed", "pos_embed", "prefix"})


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(entry.key) for entry in path)


def is_stacked(path: tuple[Any, ...]) -> bool:
    """Whether the leading axis runs over blocks, so that each slice is a tensor of its own."""
    return "blocks" in _names(path)


def _is_last_layer(path: tuple[Any, ...]) -> bool:
    return "last_layer" in _names(path)


def _is_backbone(path: tuple[Any, ...]) -> bool:
    return "backbone" in _names(path)


def decay_mask(params: Params) -> Params:
    """True where weight decay applies: not on biases, norms and other 1-D parameters (of one block, where stacked)."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.ndim - is_stacked(path) > 1, params)


@flax.struct.dataclass
class Clipped:
    """Gradients after clipping, and their l2 norm over all parameters before it."""

    grads: Params
    norm: Float[Array, ""]


def clip_gradients(grads: Params, *, mode: Literal["tensor", "global", "none"], max_norm: float) -> Clipped:
    """Gradients whose l2 norm is at most `max_norm`, per parameter tensor (as the release does) or over all of them."""

    def square(path: tuple[Any, ...], grad: Array) -> Array:
        axes = tuple(range(1 if is_stacked(path) else 0, grad.ndim))
        return jnp.sum(jnp.square(grad), axis=axes, keepdims=True)

    def clip(grad: Array, squared: Array) -> Array:
        return grad * jnp.minimum(1.0, max_norm / (jnp.sqrt(squared) + 1e-6))

    # The barrier keeps XLA from reading the gradients a second time for the sum of the sums.
    squares = jax.lax.optimization_barrier(jax.tree_util.tree_map_with_path(square, grads))
    first, *others = (jnp.sum(squared) for squared in jax.tree.leaves(squares))
    total = sum(others, start=first)
    if mode == "tensor":
        grads = jax.tree.map(clip, grads, squares)
    elif mode == "global":
        grads = jax.tree.map(lambda grad: clip(grad, total), grads)
    return Clipped(grads=grads, norm=jnp.sqrt(total))


def make_optimizer(
    *, b1: float, b2: float, freeze_last_layer_steps: int, freeze_backbone_steps: int = 0
) -> optax.GradientTransformation:
    """Adam's direction: maps gradients to an unscaled step; the moments of a frozen part start when it is released.

    A torch optimizer keeps no moments and counts no steps for a parameter without a gradient. A frozen part therefore has
    a step count of its own; without it, its first steps after the release would be several times too long.
    """

    def held(steps: int) -> optax.GradientTransformation:
        return optax.conditionally_mask(adam, should_transform_fn=lambda step, **_: jnp.asarray(step) >= steps)

    adam = optax.scale_by_adam(b1=b1, b2=b2)
    parts: dict[Hashable, optax.GradientTransformation] = {_BODY: adam, _LAST_LAYER: held(freeze_last_layer_steps)}
    if freeze_backbone_steps:
        parts[_BACKBONE] = held(freeze_backbone_steps)
    return optax.partition(parts, lambda params: _labels(params, backbone=_BACKBONE in parts))


def _labels(params: Params, *, backbone: bool) -> Params:
    def label(path: tuple[Any, ...], _: Any) -> str:
        if _is_last_layer(path):
            return _LAST_LAYER
        return _BACKBONE if backbone and _is_backbone(path) else _BODY

    return jax.tree_util.tree_map_with_path(label, params)


def learning_rates(params: Params, *, layer_decay: float) -> Params:
    """Factors of the learning rate: numbers, or [L, 1, …] where blocks are stacked; DINOv2's layer-wise decay.

    With d = `layer_decay`: d^(L - l) for block l of L (from 0), d^(L + 1) for everything before the blocks (patch projection,
    position embedding, prefix tokens), 1 for the norm after them and the head.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    depth = next((leaf.shape[0] for path, leaf in leaves if is_stacked(path)), 0)
    of_blocks = layer_decay ** np.arange(depth, 0, -1, dtype=np.float64)

    def factor(path: tuple[Any, ...], leaf: Array) -> float | Float[np.ndarray, "L ..."]:
        if is_stacked(path):
            return of_blocks.astype(np.float32).reshape(-1, *(1,) * (leaf.ndim - 1))
        return layer_decay ** (depth + 1) if _EMBEDDING & set(_names(path)) else 1.0

    return jax.tree_util.tree_map_with_path(factor, params)


def apply_update(
    params: Params,
    direction: Params,
    *,
    step: Int[Array, ""],
    lr: Float[Array, ""],
    weight_decay: Float[Array, ""],
    freeze_last_layer_steps: int,
    freeze_backbone_steps: int = 0,
    layer_decay: float = 1.0,
) -> Params:
    """One AdamW step, `params - lr * (direction + weight_decay * params)`: decay masked, frozen parts held, and the learning
    rate of each layer multiplied by its factor of `learning_rates`."""

    def update(path: tuple[Any, ...], param: Array, towards: Array, decays: bool, factor: Any) -> Array:
        change = lr * (towards + (weight_decay * param if decays else 0.0))
        if layer_decay != 1.0:
            change = factor * change
        if _is_last_layer(path):
            change = jnp.where(step >= freeze_last_layer_steps, change, 0.0)
        if freeze_backbone_steps and _is_backbone(path):
            change = jnp.where(step >= freeze_backbone_steps, change, 0.0)
        return param - change

    factors = learning_rates(params, layer_decay=layer_decay)
    return jax.tree_util.tree_map_with_path(update, params, direction, decay_mask(params), factors)


def ema_update(average: Params, params: Params, *, momentum: Float[Array, ""]) -> Params:
    """`momentum * average + (1 - momentum) * params`, leaf by leaf, in float32."""
    return jax.tree.map(lambda old, new: momentum * old + (1.0 - momentum) * new, average, params)
