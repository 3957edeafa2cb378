"""Normalisation of pixels: from grey levels to the input of a network."""

import jax.numpy as jnp

from flsl_jax.config.imagenet import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.typing import Array, Float

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "normalise"]


def normalise(
    images: Float[Array, "*b H W C"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*b H W C"]:
    """`(images / 255 - mean) / std`, channel by channel; `images` are grey levels from 0 to 255."""
    return (images / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
