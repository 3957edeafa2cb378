"""Pixel augmentations of a batch on the accelerator, with the semantics of Pillow and torchvision on uint8 images.

Images are float32 [B, H, W, C] and hold whole grey levels from 0 to 255. Every function returns such levels again. Pillow knows
three channels, red, green and blue, and one. With others, each channel is changed as a grey image is. What is about colour
(grayscale, saturation, hue) takes three.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.typing import Array, Bool, Float, Int, UInt32

Images = Float[Array, "B H W C"]
PerImage = Float[Array, " B"]

_BOX_PASSES = 3
_ONE = 1 << 24


def grayscale(images: Images) -> Images:
    """ITU-R 601 luma in all three channels (`Image.convert("L")`)."""
    return jnp.broadcast_to(_luma(images), images.shape)


def adjust_brightness(images: Images, factor: PerImage) -> Images:
    """Blend with black (`ImageEnhance.Brightness`); factor 1 changes nothing."""
    return _blend(0.0, images, factor)


def adjust_contrast(images: Images, factor: PerImage) -> Images:
    """Blend with the image's rounded mean luma (`ImageEnhance.Contrast`); without colour, with each channel's own mean."""
    return _blend(_mean_level(images), images, factor)


def adjust_saturation(images: Images, factor: PerImage) -> Images:
    """Blend with the grayscale image (`ImageEnhance.Color`)."""
    return _blend(_luma(images), images, factor)


def adjust_hue(images: Images, shift: PerImage) -> Images:
    """Turn the hue by `shift` of a full circle, -0.5 to 0.5, through 8-bit HSV as torchvision does with Pillow."""
    hue, saturation, value = _rgb_to_hsv(images)
    turned = hue + jnp.trunc(shift * 255.0)[:, None, None]
    # Exact for whole numbers; `mod` takes several times as long on a CPU.
    hue = turned - 256.0 * jnp.floor(turned / 256.0)
    return _hsv_to_rgb(hue, saturation, value)


def color_jitter(
    images: Images,
    *,
    order: Int[Array, "B 4"],
    brightness: PerImage,
    contrast: PerImage,
    saturation: PerImage,
    hue: PerImage | None,
) -> Images:
    """The four adjustments one after the other, image b in the order `order[b]` (0 brightness … 3 hue).

    Without three channels there are two, brightness and contrast, in the order that they have among the four.

    Args:
        images: grey levels.
        order: for every image, a permutation of 0 … 3.
        brightness: factors; 1 changes nothing.
        contrast: factors; 1 changes nothing.
        saturation: factors; 1 changes nothing.
        hue: shifts in full circles. None skips the hue; a shift of 0 would still round the image through 8-bit HSV.
    """
    colour = images.shape[-1] == 3
    for place in range(4):
        turn = order[:, place, None, None, None]
        if not colour:
            partner = jnp.where(turn == 0, 0.0, _mean_level(images))
            factor = jnp.where(turn == 0, _wide(brightness), _wide(contrast))
            images = jnp.where(turn < 2, _blend_wide(partner, images, factor), images)
            continue
        # Three of the adjustments are a blend, each with its own partner, so one blend serves all three; the hue is separate.
        luma = _luma(images)
        mean = jnp.floor(jnp.mean(luma, axis=(1, 2, 3), keepdims=True) + 0.5)
        partner = jnp.where(turn == 0, 0.0, jnp.where(turn == 1, mean, luma))
        factor = jnp.where(turn == 0, _wide(brightness), jnp.where(turn == 1, _wide(contrast), _wide(saturation)))
        turned = images if hue is None else adjust_hue(images, hue)
        images = jnp.where(turn == 3, turned, _blend_wide(partner, images, factor))
    return images


def gaussian_blur(images: Images, sigma: PerImage, *, max_sigma: float) -> Images:
    """Gaussian blur with a standard deviation of `sigma` pixels, edges extended (Pillow's `GaussianBlur(radius=sigma)`).

    Like Pillow, it runs three box blurs of fractional radius along the rows and three along the columns, and rounds each
    to whole levels (Gwosdek et al. 2011, "Theoretical foundations of Gaussian convolution by extended box filtering").
    Sums are computed in Pillow's 24-bit fixed point. In float32, ties, which are frequent (with σ = 1 the weights are
    sixths), would be rounded to other levels.

    Args:
        images: grey levels.
        sigma: 0 to `max_sigma`; 0 changes nothing.
        max_sigma: the largest standard deviation; it fixes how far the boxes reach.
    """
    reach = math.floor(_half_width(max_sigma)) + 1
    kernel = _box_kernel(sigma, reach=reach)
    levels = images.astype(jnp.uint32)
    return jax.lax.platform_dependent(levels, kernel, cpu=_blur_in_loops, default=_blur_in_passes).astype(images.dtype)


def solarise(images: Images, *, threshold: float = 128.0) -> Images:
    """Invert the levels of `threshold` and above (`ImageOps.solarize`)."""
    return jnp.where(images < threshold, images, 255.0 - images)


def where(condition: Bool[Array, " B"], augmented: Images, images: Images) -> Images:
    """For each image: the augmented one if the condition holds, else the image as it is."""
    return jnp.where(condition[:, None, None, None], augmented, images)


def _wide(values: Array) -> Array:
    """One value per image, in a shape that broadcasts over its pixels."""
    return values[:, None, None, None]


def _mean_level(images: Images) -> Float[Array, "B 1 1 c"]:
    """The mean in whole levels: of the luma, or without colour of each channel."""
    levels, axes = (_luma(images), (1, 2, 3)) if images.shape[-1] == 3 else (images, (1, 2))
    return jnp.floor(jnp.mean(levels, axis=axes, keepdims=True) + 0.5)


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
    saturation = _whole_levels(span / jnp.maximum(value, 1.0))
    return jnp.where(span > 0, _hue(red, green, blue, value=value, span=span), 0.0), saturation, value


def _hue(red: Array, green: Array, blue: Array, *, value: Array, span: Array) -> Array:
    """The hue in whole levels, 255 to a full circle; an arbitrary value where the span is 0.

    The hue is a ratio of whole numbers, so its floor is exact here. Pillow takes the floor of a rounded ratio. The result
    differs only if the ratio itself is a whole number, and then it depends on that number alone.
    """
    from_red, from_green, from_blue = green - blue, 2.0 * span + (blue - red), 4.0 * span + (red - green)
    sixths = jnp.where(red == value, from_red, jnp.where(green == value, from_green, from_blue))
    full = 6.0 * jnp.maximum(span, 1.0)
    share = 255.0 * jnp.where(sixths < 0.0, sixths + full, sixths)
    # Adding a half protects whole results from an inexact division; it is too small to reach the next whole number.
    level = jnp.floor((share + 0.5) / full)
    lowered = jnp.asarray(_lowered_hues())[level.astype(jnp.int32)]
    return jnp.where((level * full == share) & lowered, level - 1.0, level)


@functools.cache
def _lowered_hues() -> np.ndarray:
    """Which hue levels Pillow's rounding turns into the level below; bool [256].

    Follows `rgb2hsv_row` of Pillow's Convert.c for a pixel whose hue is exactly level / 255. Pillow rounds three numbers to
    float32: the middle channel's distance from the peak, the hue in sixths, and the hue in turns.
    """
    level = np.arange(256)
    peak = 2 * (2 * level // 170) + 1
    distance = np.abs(2 * level - 85 * peak).astype(np.float32) / np.float32(85)
    sixths = np.where(2 * level >= 85 * peak, peak + distance.astype(np.float64), peak - distance.astype(np.float64))
    # Above 5 sixths Pillow counts down from 0.
    sixths = np.where(2 * level >= 85 * 5, distance.astype(np.float64) - 1.0, sixths).astype(np.float32)
    turns = np.fmod(sixths.astype(np.float64) / 6.0 + 1.0, 1.0).astype(np.float32)
    return np.floor(turns.astype(np.float64) * 255.0) < level


def _whole_levels(share: Array) -> Array:
    """`floor(share * 255)` of a float32 share, with the result of Pillow's product in float64.

    A float32 product may land on the wrong side of a whole level. The share is therefore split into two halves, whose
    products are exact.
    """
    bits = jax.lax.bitcast_convert_type(share, jnp.uint32) & jnp.uint32(0xFFFFF000)
    high = jax.lax.bitcast_convert_type(bits, jnp.float32)
    whole = jnp.floor(high * 255.0)
    return whole + jnp.floor((high * 255.0 - whole) + (share - high) * 255.0)


def _hsv_to_rgb(hue: Array, saturation: Array, value: Array) -> Array:
    """Back to RGB from 8-bit levels (Pillow's `convert("RGB")` of an HSV image)."""
    place = jnp.asarray([5.0, 3.0, 1.0]) + (hue * (6.0 / 255.0))[..., None]
    place = jnp.where(place < 6.0, place, place - 6.0)
    away = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return _round(value[..., None] * (1.0 - (saturation / 255.0)[..., None] * away))


def _half_width(sigma: Array | float) -> Array | float:
    """Half the width, less half a pixel, of a box; `_BOX_PASSES` such boxes together have the variance of the Gaussian."""
    return ((12.0 * sigma * sigma / _BOX_PASSES + 1.0) ** 0.5 - 1.0) / 2.0


def _box_kernel(sigma: PerImage, *, reach: int) -> UInt32[Array, "B R"]:
    """Weights, in units of 2⁻²⁴, of the pixels at distance 0 … `reach`: all equal except those at the ends of the box."""
    variance = sigma * sigma / _BOX_PASSES
    whole = jnp.floor(_half_width(sigma))
    above = whole + 1.0
    radius = whole + (2.0 * whole + 1.0) * (whole * above - 3.0 * variance) / (6.0 * (variance - above * above))
    whole = jnp.floor(radius).astype(jnp.uint32)[:, None]
    inner = (_ONE / (2.0 * radius + 1.0)).astype(jnp.uint32)[:, None]
    end = (_ONE - (2 * whole + 1) * inner) // 2
    distance = jnp.arange(reach + 1, dtype=jnp.uint32)
    return jnp.where(distance <= whole, inner, jnp.where(distance == whole + 1, end, jnp.uint32(0)))


def _blur_in_loops(levels: UInt32[Array, "B H W C"], kernel: UInt32[Array, "B R"]) -> UInt32[Array, "B H W C"]:
    """For a CPU. XLA would fuse unrolled passes with each other and with the computation of the image, and would compute every
    pixel again for each tap. That is 20 times slower on a CPU, with or without optimisation barriers."""
    for axis in (2, 1):
        blur = functools.partial(_box_blur, kernel=kernel, axis=axis)
        levels = jax.lax.fori_loop(0, _BOX_PASSES, lambda _, image, blur=blur: blur(image), levels)
    return levels


def _blur_in_passes(levels: UInt32[Array, "B H W C"], kernel: UInt32[Array, "B R"]) -> UInt32[Array, "B H W C"]:
    """For accelerators, which would copy the image around loops; to the bit the same.

    Between the passes, which wait for memory, the levels are bytes. A row is one axis of C W numbers.
    """
    batch, height, width, channels = levels.shape
    rows = levels.reshape(batch, height, width * channels).astype(jnp.uint8)
    for axis, step in ((2, channels), (1, 1)):
        for _ in range(_BOX_PASSES):
            blurred = _box_blur(rows.astype(jnp.uint32), kernel, axis=axis, step=step)
            rows = jax.lax.optimization_barrier(blurred.astype(jnp.uint8))
    return rows.reshape(levels.shape).astype(levels.dtype)


def _box_blur(
    levels: UInt32[Array, "B ..."], kernel: UInt32[Array, "B R"], *, axis: int, step: int = 1
) -> UInt32[Array, "B ..."]:
    """One symmetric box blur along an axis, with the edge pixels repeated outside. No sum exceeds 255 · 2²⁴ + 2²³.

    Args:
        levels: whole grey levels.
        kernel: of `_box_kernel`.
        axis: along which pixels are neighbours.
        step: how many entries of the axis one pixel takes.
    """
    reach, length = kernel.shape[1] - 1, levels.shape[axis]
    cut = functools.partial(jax.lax.slice_in_dim, axis=axis)
    weights = kernel.reshape(*kernel.shape, *(1 for _ in levels.shape[1:]))
    edges = cut(levels, 0, step), cut(levels, length - step, length)
    padded = jnp.concatenate([edges[0]] * reach + [levels] + [edges[1]] * reach, axis=axis)
    total = weights[:, 0] * levels + _ONE // 2
    for distance in range(1, reach + 1):
        before, after = ((reach + sign * distance) * step for sign in (-1, 1))
        total += weights[:, distance] * (cut(padded, before, before + length) + cut(padded, after, after + length))
    return total // _ONE
