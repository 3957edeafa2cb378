"""The precision of the objective."""

import jax.numpy as jnp

from flsl_jax.typing import Array


def at_least_float32(x: Array) -> Array:
    """float64 stays, everything narrower becomes float32."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
