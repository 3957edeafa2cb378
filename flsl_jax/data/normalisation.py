"""From grey levels to what a network is given."""

import jax.numpy as jnp

from flsl_jax.typing import Array, Float

# Mean and standard deviation of ImageNet's channels (red, green, blue), as shares of the range from black to white.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(
    images: Float[Array, "*b H W 3"], *, mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "*b H W 3"]:
    """Levels from 0 to 255 over 255, less the mean, over the standard deviation, channel by channel."""
    return (images / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)
