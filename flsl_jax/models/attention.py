"""Attention between the tokens of an image, with its derivative written out."""

import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from flsl_jax.typing import Array, Float

log = logging.getLogger(__name__)

# Of the largest value. Both round their results to bfloat16, which is 0.4 % by itself.
_TOLERANCE = 0.03


def attend(
    query: Float[Array, "B N heads d"], key: Float[Array, "B N heads d"], value: Float[Array, "B N heads d"]
) -> Float[Array, "B N heads d"]:
    """`softmax(q kᵀ / √d) v`, as `jax.nn.dot_product_attention` computes it; the softmax is in float32.

    The heads are first moved before the tokens and joined with the batch to one axis, which more than halves the time of the
    forward and backward pass on a CPU. The scale and the normalisation are applied to the d channels of a token, not to its N
    weights.

    The derivative is written out by hand: in bfloat16 all its products are of bfloat16 with float32 sums, and the backward
    pass keeps one copy of the weights, in bfloat16.
    """
    heads = query.shape[2]
    query, key, value = (
        rearrange(x, "b n heads d -> (b heads) n d") for x in (query * query.shape[-1] ** -0.5, key, value)
    )
    return rearrange(_attend(query, key, value), "(b heads) n d -> b n heads d", heads=heads)


def attend_by_cudnn(
    query: Float[Array, "B N heads d"], key: Float[Array, "B N heads d"], value: Float[Array, "B N heads d"]
) -> Float[Array, "B N heads d"]:
    """The same by cuDNN's fused kernels, which never write the weights to memory; bfloat16 on NVIDIA GPUs alone."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def cudnn_attends(*, tokens: int, heads: int, channels: int) -> bool:
    """Whether cuDNN's attention and its derivative run here and equal ours within bfloat16's rounding, for one image.

    It is broken in some builds for CUDA, and has no kernels for some shapes. Why it cannot be used is logged.

    Args:
        tokens: of an image, with a prefix if there is one.
        heads: of the network.
        channels: of a head.
    """
    arrays = jax.random.normal(jax.random.key(0), (4, 1, tokens, heads, channels)).astype(jnp.bfloat16)

    def results(function: Callable[[Array, Array, Array], Array]) -> list[np.ndarray]:
        output, backward = jax.vjp(function, *arrays[:3])
        return [np.asarray(x, np.float32) for x in (output, *backward(arrays[3]))]

    try:
        pairs = list(zip(results(jax.jit(attend_by_cudnn)), results(jax.jit(attend)), strict=True))
    except Exception as error:  # whatever a library or driver raises, ours is there
        reason = str(error).strip().splitlines()
        log.info("cuDNN's attention cannot be used here: %s", reason[0] if reason else type(error).__name__)
        return False
    difference = max(float(np.abs(theirs - ours).max() / np.abs(ours).max()) for theirs, ours in pairs)
    if not difference < _TOLERANCE:
        log.warning("cuDNN's attention differs from ours by %.2g of the largest value; ours is used", difference)
    return difference < _TOLERANCE


@jax.custom_vjp
def _attend(query: Array, key: Array, value: Array) -> Array:
    """`softmax(q kᵀ) v` of arrays [G, N, d]."""
    return _attend_forward(query, key, value)[0]


def _attend_forward(query: Array, key: Array, value: Array) -> tuple[Array, tuple[Array, ...]]:
    logits = _product(query, _turned(key))
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    weights = weights.astype(value.dtype)
    mixed = _product(weights, value)
    output = (mixed / total).astype(value.dtype)
    # In half precision the output stands for `mixed`: whatever reads it keeps it anyway.
    return output, (query, key, value, weights, total, mixed if mixed.dtype == value.dtype else output)


def _attend_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    query, key, value, weights, total, mixed = kept
    cotangent = cotangent.astype(total.dtype)
    if mixed.dtype == total.dtype:
        of_total = -jnp.sum(cotangent * jax.lax.integer_pow(total, -2) * mixed, axis=-1, keepdims=True)
    else:
        of_total = -jnp.sum(cotangent * mixed.astype(total.dtype), axis=-1, keepdims=True) / total
    of_mixed = (cotangent / total).astype(value.dtype)
    of_weights = _product(of_mixed, _turned(value)) + of_total
    of_logits = (of_weights * weights.astype(total.dtype)).astype(query.dtype)
    of_query, of_key = _product(of_logits, key), _product(_turned(of_logits), query)
    of_value = _product(_turned(weights), of_mixed)
    return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)


_attend.defvjp(_attend_forward, _attend_backward)


def _product(left: Array, right: Array) -> Array:
    """Matrix products, summed in float32 or the arrays' own wider dtype."""
    return jnp.matmul(left, right, preferred_element_type=jnp.promote_types(left.dtype, jnp.float32))


def _turned(x: Float[Array, "G n m"]) -> Float[Array, "G m n"]:
    return jnp.swapaxes(x, 1, 2)
