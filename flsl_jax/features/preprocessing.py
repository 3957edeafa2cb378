"""Images made ready for a model: decoded, resized, padded, and normalised as its weights expect."""

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from flsl_jax.data.images.decode import DecodeError, decode_image, levels_of
from flsl_jax.data.images.levels import RGB, Decoding, adapted, to_levels
from flsl_jax.data.images.listing import read_file
from flsl_jax.data.normalisation import normalise
from flsl_jax.errors import UserError, reason
from flsl_jax.features.fitting import Fit
from flsl_jax.typing import Array, Float, UInt8

# Types of arrays that a window makes levels of. Floats are refused: they may be normalised already.
_DEEP = (np.uint16, np.int16, np.uint32, np.int32)


@runtime_checkable
class Normalised(Protocol):
    """What `preprocess` reads of a model: its patch, and the size, the bands and the normalisation of its images."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    decoding: Decoding

    @property
    def patch_size(self) -> int: ...


def preprocess(images: Any, model: Any, *, size: int | None = None, crop: bool = False) -> Float[Array, "B H W C"]:
    """See `flsl_jax.preprocess`."""
    if not isinstance(model, Normalised):
        raise UserError(f"model is a {type(model).__name__}; expected what flsl_jax.load returns")
    fit = Fit(patch_size=model.patch_size, size=model.image_size if size is None else size, crop=crop)
    fitted = [fit.image(read_pixels(image, model.decoding)) for image in _listed(images)]
    if not fitted:
        raise UserError("there is no image; expected one or more")
    sizes = sorted({image.shape[:2] for image in fitted})
    if len(sizes) > 1:
        named = " and ".join(f"{height}×{width}" for height, width in sizes[:2])
        raise UserError(
            f"the resized images are of {len(sizes)} sizes, such as {named}, and do not fit into one array; crop=True makes "
            "squares of all, and model.each(images) takes images of any size"
        )
    return normalised(np.stack(fitted), model)


def normalised(pixels: UInt8[np.ndarray, "B y x C"], model: Normalised) -> Float[Array, "B H W C"]:
    """Levels from 0 to 255 as the model's input; zeros at the bottom and right fill up the last patches."""
    levels = normalise(jnp.asarray(pixels, jnp.float32), mean=model.mean, std=model.std)
    bottom, right = (-side % model.patch_size for side in pixels.shape[1:3])
    return jnp.pad(levels, ((0, 0), (0, bottom), (0, right), (0, 0)))


def read_pixels(image: Any, decoding: Decoding = RGB) -> UInt8[np.ndarray, "H W C"]:
    """The levels of a file, a Pillow image or an array, upright, as the decoding wants them.

    Raises:
        UserError: it cannot be read, is an array of another kind, or has other bands.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return decode_image(read_file(image), name=os.fspath(image), decoding=decoding)
        except DecodeError as error:
            raise UserError(f"{error}; give an image file") from error
        except OSError as error:
            raise UserError(f"{os.fspath(image)} cannot be read ({reason(error)}); give an image file") from error
    if isinstance(image, Image.Image):
        try:
            return levels_of(ImageOps.exif_transpose(image), decoding, name="a Pillow image")
        except DecodeError as error:
            raise UserError(str(error)) from error
    pixels = np.asarray(image)
    if decoding.window is not None and pixels.dtype in _DEEP:
        pixels = to_levels(pixels, decoding, name="an image")
    if pixels.dtype != np.uint8:
        raise UserError(
            f"an image is an array of {pixels.dtype}; expected uint8, levels from 0 to 255 (levels from 0 to 1 become that by "
            "(255 * levels).round().astype('uint8'); images that are normalised already go to the model as they are)"
        )
    bands = pixels[..., None] if pixels.ndim == 2 else pixels
    if bands.ndim != 3 or not decoding.takes(bands.shape[-1]) or not bands.size:
        raise UserError(
            f"an image has shape {pixels.shape}; expected [height, width, {decoding.channels}], the channels last"
        )
    return adapted(bands, decoding, name="an image")


def _listed(images: Any) -> Sequence[Any]:
    """One image or a batch of them as a sequence of images."""
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, list | tuple):
        return images
    pixels = np.asarray(images)
    return list(pixels) if pixels.ndim == 4 else [pixels]
