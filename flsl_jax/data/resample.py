"""Random crop boxes, and crop-and-resize of a batch as two matrix products with Pillow's antialiased bicubic filter."""

import math

import jax.numpy as jnp

from flsl_jax.typing import Array, Float

_ATTEMPTS = 10
# How many uniform numbers one crop box takes: an area and an aspect for every attempt, then the place.
BOX_DRAWS = 2 * _ATTEMPTS + 2


def random_crop_box(
    draws: Float[Array, "*b U"], *, size: int, area: tuple[float, float], aspect: tuple[float, float]
) -> Float[Array, "*b 4"]:
    """Boxes (y0, x0, y1, x1) in whole pixels inside a square image, with the distribution of torchvision's RandomResizedCrop.

    The share of the area is uniform, the aspect ratio (width / height) log-uniform. The first of ten draws that fits is taken;
    if none fits, the largest centred box of an allowed aspect.

    Args:
        draws: uniform numbers in [0, 1); U is `BOX_DRAWS`.
        size: height and width of the image.
        area: range of the box's share of the image.
        aspect: range of width over height.
    """
    target = size**2 * (area[0] + (area[1] - area[0]) * draws[..., :_ATTEMPTS])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = jnp.exp(low + (high - low) * draws[..., _ATTEMPTS : 2 * _ATTEMPTS])
    widths, heights = jnp.round(jnp.sqrt(target * ratio)), jnp.round(jnp.sqrt(target / ratio))
    fits = (widths > 0) & (widths <= size) & (heights > 0) & (heights <= size)
    found, first = fits.any(axis=-1), jnp.argmax(fits, axis=-1, keepdims=True)
    # A square image has aspect 1; if that is allowed, the fallback is the whole image.
    width = jnp.where(found, jnp.take_along_axis(widths, first, axis=-1)[..., 0], round(size * min(1.0, aspect[1])))
    height = jnp.where(
        found, jnp.take_along_axis(heights, first, axis=-1)[..., 0], round(size * min(1.0, 1 / aspect[0]))
    )
    y0 = jnp.where(found, jnp.floor(draws[..., -2] * (size - height + 1)), jnp.floor((size - height) / 2))
    x0 = jnp.where(found, jnp.floor(draws[..., -1] * (size - width + 1)), jnp.floor((size - width) / 2))
    return jnp.stack([y0, x0, y0 + height, x0 + width], axis=-1)


def crop_resize(images: Float[Array, "B S S C"], boxes: Float[Array, "B 4"], *, size: int) -> Float[Array, "B s s C"]:
    """Each image's box resized to `size` × `size`, equal to `Image.crop(box).resize((size, size), BICUBIC)` of Pillow 13.

    Pixels outside the box are never read: the kernel is cut off there, and what is left of it is normalised. As in Pillow,
    one axis is resized and rounded to whole grey levels from 0 to 255, then the other. The columns come first, unless the
    height shrinks by more than twice as many pixels as the width. (Before version 13, Pillow always took the columns first.
    Where the order differs, pixels that the first rounding clips differ too.)

    Args:
        images: grey levels, 0 to 255.
        boxes: (y0, x0, y1, x1) in whole pixels.
        size: height and width of the result in pixels.
    """
    y, x = (boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])
    if size >= images.shape[1]:
        return _resize_columns_first(images, y=y, x=x, size=size)
    rows_first = y[1] - y[0] - size > 2.0 * jnp.maximum(x[1] - x[0] - size, 0.0)
    # Rows first is the same as columns first on the transposed image.
    turn = rows_first[:, None, None, None]
    turned = jnp.where(turn, jnp.swapaxes(images, 1, 2), images)
    turned_y = (jnp.where(rows_first, x[0], y[0]), jnp.where(rows_first, x[1], y[1]))
    turned_x = (jnp.where(rows_first, y[0], x[0]), jnp.where(rows_first, y[1], x[1]))
    resized = _resize_columns_first(turned, y=turned_y, x=turned_x, size=size)
    return jnp.where(turn, jnp.swapaxes(resized, 1, 2), resized)


def _resize_columns_first(images: Array, *, y: tuple[Array, Array], x: tuple[Array, Array], size: int) -> Array:
    """The crop from `y[0]` to `y[1]` and `x[0]` to `x[1]`, [B] each, resized."""
    columns = _axis_weights(*x, length=images.shape[2], size=size)
    rows = _axis_weights(*y, length=images.shape[1], size=size)
    narrow = _to_grey_levels(jnp.einsum("bxw,bhwc->bhxc", columns, images, precision="highest"))
    return _to_grey_levels(jnp.einsum("byh,bhxc->byxc", rows, narrow, precision="highest"))


def _axis_weights(
    start: Float[Array, " B"], stop: Float[Array, " B"], *, length: int, size: int
) -> Float[Array, "B s S"]:
    """Pillow's bicubic filter (a = −0.5) along one axis as a matrix: widened when it shrinks, and cut off at the box."""
    scale = (stop - start)[:, None, None] / size
    stretch = jnp.maximum(scale, 1.0)
    center = start[:, None, None] + (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * scale
    pixel = jnp.arange(length, dtype=jnp.float32)
    inside = (pixel >= start[:, None, None]) & (pixel < stop[:, None, None])
    weights = jnp.where(inside, _cubic((pixel + 0.5 - center) / stretch), 0.0)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _cubic(x: Array) -> Array:
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _to_grey_levels(x: Array) -> Array:
    return jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)
