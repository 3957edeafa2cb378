"""The precision in which the objective is computed."""

import jax.numpy as jnp

from flsl_jax.typing import Array


def at_least_float32(x: Array) -> Array:
    """The array as float32, or unchanged if it is float64."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
