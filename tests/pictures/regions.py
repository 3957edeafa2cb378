"""An encoder whose features are known: red patches and blue ones are orthogonal, every other colour lies between."""

import jax.numpy as jnp
import numpy as np

from flsl_jax.data.images.decode import RGB
from flsl_jax.pictures.images import ShownImage


class RegionEncoder:
    """Tokens are the mean red, green and blue of each patch of 8 pixels."""

    name, patch_size, image_size, blank, inv_temp = "regions", 8, 32, (0.0, 0.0, 0.0), None
    decoding = RGB

    def tokens(self, images):
        batch, height, width, _ = images.shape
        return jnp.asarray(images, jnp.float32).reshape(batch, height // 8, 8, width // 8, 8, 3).mean(axis=(2, 4))


def red_left_blue_right(name="two", *, width=48, red=16):
    """32 pixels high; the first `red` columns are red."""
    pixels = np.zeros((32, width, 3), np.uint8)
    pixels[:, :red, 0] = 200
    pixels[:, red:, 2] = 200
    return ShownImage(name, pixels, file_width=width, file_height=32)
