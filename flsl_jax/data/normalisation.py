"""Normalisation of pixels: from grey levels to the input of a network."""

import jax.numpy as jnp

from flsl_jax.typing import Array, Float

# Mean and standard deviation of ImageNet's channels (red, green, blue), as shares of the range from black to white.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(
    images: Float[Array, "*b H W 3"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*b H W 3"]:
    """`(images / 255 - mean) / std`, channel by channel; `images` are grey levels from 0 to 255."""
    return (images / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
