"""Pixel treatments of a batch on the accelerator, with the semantics of Pillow and torchvision on uint8 images.

Images are float32 holding whole grey levels from 0 to 255, [B, H, W, 3]; every treatment returns such levels again.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.typing import Array, Bool, Float, Int

Images = Float[Array, "B H W 3"]
PerImage = Float[Array, " B"]

_BOX_PASSES = 3


def grayscale(images: Images) -> Images:
    """ITU-R 601 luma in all three channels (`Image.convert("L")`)."""
    return jnp.broadcast_to(_luma(images), images.shape)


def adjust_brightness(images: Images, factor: PerImage) -> Images:
    """Blend with black (`ImageEnhance.Brightness`); factor 1 changes nothing."""
    return _blend(0.0, images, factor)


def adjust_contrast(images: Images, factor: PerImage) -> Images:
    """Blend with the image's rounded mean luma (`ImageEnhance.Contrast`)."""
    mean = jnp.floor(jnp.mean(_luma(images), axis=(1, 2, 3), keepdims=True) + 0.5)
    return _blend(mean, images, factor)


def adjust_saturation(images: Images, factor: PerImage) -> Images:
    """Blend with the grayscale image (`ImageEnhance.Color`)."""
    return _blend(_luma(images), images, factor)


def adjust_hue(images: Images, shift: PerImage) -> Images:
    """Turn the hue by `shift` of a full circle, -0.5 to 0.5, through 8-bit HSV as torchvision does with Pillow."""
    hue, saturation, value = _rgb_to_hsv(images)
    hue = jnp.mod(hue + jnp.trunc(shift * 255.0)[:, None, None], 256.0)
    return _hsv_to_rgb(hue, saturation, value)


def color_jitter(
    images: Images,
    *,
    order: Int[Array, "B 4"],
    brightness: PerImage,
    contrast: PerImage,
    saturation: PerImage,
    hue: PerImage,
) -> Images:
    """The four adjustments one after the other, image b in the order `order[b]` (0 brightness … 3 hue)."""
    for place in range(4):
        turn = order[:, place, None, None, None]
        # Three of the adjustments are one blend with different partners, so only the hue is computed beside it.
        luma = _luma(images)
        mean = jnp.floor(jnp.mean(luma, axis=(1, 2, 3), keepdims=True) + 0.5)
        partner = jnp.where(turn == 0, 0.0, jnp.where(turn == 1, mean, luma))
        factor = jnp.where(turn == 0, _wide(brightness), jnp.where(turn == 1, _wide(contrast), _wide(saturation)))
        images = jnp.where(turn == 3, adjust_hue(images, hue), _blend_wide(partner, images, factor))
    return images


def gaussian_blur(images: Images, sigma: PerImage, *, max_sigma: float) -> Images:
    """Gaussian blur of standard deviation `sigma` pixels, edges extended (Pillow's `GaussianBlur(radius=sigma)`).

    As Pillow does, three box blurs of fractional radius along each axis (Gwosdek et al. 2011, "Theoretical foundations
    of Gaussian convolution by extended box filtering"). The three are one matrix, so that levels are rounded once an
    axis and not three times.

    Args:
        images: grey levels.
        sigma: more than 0, at most `max_sigma`.
        max_sigma: bounds the boxes' reach.
    """
    rows, columns = (_blur_matrix(sigma, length=length, max_sigma=max_sigma) for length in images.shape[1:3])
    images = _round(jnp.einsum("bxw,bhwc->bhxc", columns, images, precision="highest"))
    return _round(jnp.einsum("byh,bhwc->bywc", rows, images, precision="highest"))


def solarise(images: Images, *, threshold: float = 128.0) -> Images:
    """Invert the levels from `threshold` up (`ImageOps.solarize`)."""
    return jnp.where(images < threshold, images, 255.0 - images)


def normalise(images: Images, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """Levels over 255, less the mean, over the standard deviation, channel by channel."""
    return (images / 255.0 - jnp.asarray(mean)) / jnp.asarray(std)


def where(condition: Bool[Array, " B"], treated: Images, images: Images) -> Images:
    """The treated image where the condition holds."""
    return jnp.where(condition[:, None, None, None], treated, images)


def _wide(values: PerImage) -> Float[Array, "B 1 1 1"]:
    return values[:, None, None, None]


def _luma(images: Images) -> Float[Array, "B H W 1"]:
    """Pillow's fixed-point luma; every product and sum is a whole number below 2²⁴, exact in float32."""
    total = images[..., 0] * 19595.0 + images[..., 1] * 38470.0 + images[..., 2] * 7471.0
    return jnp.floor((total + 32768.0) / 65536.0)[..., None]


def _blend(partner: Array | float, images: Images, factor: PerImage) -> Images:
    return _blend_wide(partner, images, _wide(factor))


def _blend_wide(partner: Array | float, images: Images, factor: Float[Array, "B 1 1 1"]) -> Images:
    """`Image.blend`: truncated to whole levels after clipping."""
    return jnp.floor(jnp.clip(partner + factor * (images - partner), 0.0, 255.0))


def _round(x: Array) -> Array:
    return jnp.clip(jnp.floor(x + 0.5), 0.0, 255.0)


def _rgb_to_hsv(images: Images) -> tuple[Array, Array, Array]:
    """Hue, saturation and value as 8-bit levels (Pillow's `convert("HSV")`)."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value, low = jnp.max(images, axis=-1), jnp.min(images, axis=-1)
    span = value - low
    safe = jnp.where(span > 0, span, 1.0)
    to_red, to_green, to_blue = ((value - channel) / safe for channel in (red, green, blue))
    sector = jnp.where(
        red == value, to_blue - to_green, jnp.where(green == value, 2.0 + (to_red - to_blue), 4.0 + (to_green - to_red))
    )
    turn = jnp.where(sector < 0.0, 1.0 + sector / 6.0, sector / 6.0)
    hue = jnp.where(span > 0, _whole_levels(jnp.where(turn >= 1.0, 0.0, turn)), 0.0)
    saturation = jnp.where(span > 0, _whole_levels(span / jnp.maximum(value, 1.0)), 0.0)
    return hue, saturation, value


def _whole_levels(share: Array) -> Array:
    """`floor(share * 255)` of a float32 share, the product in float64 as Pillow has it.

    A float32 product would land on either side of a whole level; both halves of the share have an exact one.
    """
    bits = jax.lax.bitcast_convert_type(share, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    whole = jnp.floor(high * 255.0)
    return whole + jnp.floor((high * 255.0 - whole) + (share - high) * 255.0)


def _hsv_to_rgb(hue: Array, saturation: Array, value: Array) -> Images:
    """Back to RGB from 8-bit levels (Pillow's `convert("RGB")` of an HSV image)."""
    place = (jnp.asarray([5.0, 3.0, 1.0]) + (hue * (6.0 / 255.0))[..., None]) % 6.0
    away = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return _round(value[..., None] * (1.0 - (saturation / 255.0)[..., None] * away))


def _box_radius(sigma: Array) -> Array:
    """Radius of the boxes, `_BOX_PASSES` of which have the variance of the Gaussian."""
    variance = sigma * sigma / _BOX_PASSES
    whole = jnp.floor((jnp.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    above = whole + 1.0
    return whole + (2.0 * whole + 1.0) * (whole * above - 3.0 * variance) / (6.0 * (variance - above * above))


def _blur_matrix(sigma: PerImage, *, length: int, max_sigma: float) -> Float[Array, "B S S"]:
    """Three box blurs along an axis; in each the pixel at distance d counts `radius + 1 - |d|`, clipped to 0 … 1."""
    reach = math.floor((math.sqrt(12.0 * max_sigma**2 / _BOX_PASSES + 1.0) - 1.0) / 2.0) + 1
    offsets = np.arange(-reach, reach + 1)
    radius = _box_radius(sigma)[:, None]
    kernel = jnp.clip(radius + 1.0 - np.abs(offsets), 0.0, 1.0) / (2.0 * radius + 1.0)
    # Pixels beyond the edge are the edge's.
    sources = np.clip(np.arange(length)[:, None] + offsets, 0, length - 1)
    taps = (sources[:, :, None] == np.arange(length)).astype(np.float32)
    once = jnp.einsum("bo,ios->bis", kernel, taps, precision="highest")
    return jnp.einsum("bij,bjk,bkl->bil", once, once, once, precision="highest")
