"""Vectors of length 1."""

import jax
import jax.numpy as jnp

from flsl_jax.typing import Array, Float


def l2_normalise(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    """`x / max(‖x‖, 1e-12)` along an axis, as torch's `normalize`, in the dtype of x.

    The value and its gradient are finite at the zero vector too.
    """
    squared = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
