"""The precision in which the objective is computed: float32, on every device."""

import jax
import jax.numpy as jnp

from flsl_jax.typing import Array

# Without it, a GPU multiplies float32 numbers in TF32 (10 bits of mantissa), and a TPU in bfloat16 (7 bits).
_PRECISION = jax.lax.Precision.HIGHEST
# Part of the name of each such product, in a lowered program as in a profile.
FLOAT32_SCOPE = "float32_product"


def at_least_float32(x: Array) -> Array:
    """The array as float32, or unchanged if it is float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def product(equation: str, left: Array, right: Array) -> Array:
    """`jnp.einsum` of two arrays; neither factors nor sums are rounded below the arrays' own precision on any device."""
    with jax.named_scope(FLOAT32_SCOPE):
        return jnp.einsum(equation, left, right, precision=_PRECISION)


def matmul(left: Array, right: Array) -> Array:
    """`left @ right`, as precisely as `product`."""
    with jax.named_scope(FLOAT32_SCOPE):
        return jnp.matmul(left, right, precision=_PRECISION)
