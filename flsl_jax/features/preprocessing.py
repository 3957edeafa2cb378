"""Images made ready for a model: decoded, resized, padded, and normalised as its weights expect."""

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from flsl_jax.data.images import png, tiff
from flsl_jax.data.images.decode import DecodeError, decode_image, levels_of
from flsl_jax.data.images.levels import RGB, Decoding, adapted, to_levels
from flsl_jax.data.images.listing import read_file
from flsl_jax.data.normalisation import normalise
from flsl_jax.errors import UserError, reason
from flsl_jax.features.fitting import Fit
from flsl_jax.typing import Array, Float, UInt8

log = logging.getLogger(__name__)

# Below this level of the brightest pixel, a file of 16 bits is nearly black; the first such one, after a warning.
_DARK = 64
_SAID: list[str] = []
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
    """The levels of a file, of its bytes, of a Pillow image or an array, upright, as the decoding wants them.

    The first file of 16 bits that is nearly black with 8 is named in the log.

    Raises:
        UserError: it cannot be read, is an array of another kind, or has other bands.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return _decoded(read_file(image), name=os.fspath(image), decoding=decoding)
        except OSError as error:
            raise UserError(f"{os.fspath(image)} cannot be read ({reason(error)}); give an image file") from error
    if isinstance(image, bytes):
        return _decoded(image, name="an image in memory", decoding=decoding)
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


def _decoded(data: bytes, *, name: str, decoding: Decoding) -> np.ndarray:
    try:
        pixels = decode_image(data, name=name, decoding=decoding)
    except DecodeError as error:
        raise UserError(f"{error}; give an image file") from error
    if decoding.window is None and not _SAID and pixels.max() < _DARK and _is_deep(data):
        _SAID.append(name)
        log.warning(
            "%s has 16 bits, of which its brightest value uses %d %%: with 8 bits, which networks see, it is nearly black; "
            "give levels from 0 to 255, stretched over the values that your files have, or train with data.window "
            "(docs/data.md, Bands and levels)",
            name,
            round(100 * int(pixels.max()) / 255),
        )
    return pixels


def _is_deep(data: bytes) -> bool:
    page = tiff.read_page(data)
    return png.has_16_bits(data) or (page is not None and page.bits > 8)


def _listed(images: Any) -> Sequence[Any]:
    """One image or a batch of them as a sequence of images."""
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return [images]
    if isinstance(images, list | tuple):
        return images
    pixels = np.asarray(images)
    return list(pixels) if pixels.ndim == 4 else [pixels]
