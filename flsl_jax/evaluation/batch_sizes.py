"""How many images of another size than the training's an encoder can take at once."""

import jax

from flsl_jax.evaluation.encoder import Encoder


def images_at_once(encoder: Encoder, *, size: tuple[int, int], batch_size: int) -> int:
    """Images whose attention takes the memory of `batch_size` images of the training size, as a multiple of the devices.

    Attention grows with the square of the tokens: at 480 × 832 it is 63 times that of 224 × 224. Smaller images than the
    training's come `batch_size` at a time.

    Args:
        encoder: which knows its training size.
        size: height and width in pixels.
        batch_size: images of the training size.
    """
    devices = jax.local_device_count()
    share = min(1.0, (encoder.image_size**2 / (size[0] * size[1])) ** 2)
    return max(1, int(batch_size * share) // devices) * devices
