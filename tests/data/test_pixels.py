"""Every pixel augmentation against Pillow, and against torchvision's use of Pillow written out here."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from flsl_jax.data import pixels

_FACTORS = [0.0, 0.6, 0.83, 1.0, 1.17, 1.4]


def _noise(*, height: int = 33, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _smooth(*, height: int = 33, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 90 + 60 * np.sin((x + y) / 5)], -1).astype(np.uint8)


def _edges(*, height: int = 33, width: int = 40) -> np.ndarray:
    """Black and white blocks, so that clipping, borders and grey pixels are met."""
    y, x = np.mgrid[0:height, 0:width]
    return np.repeat(((x // 7 + y // 5) % 2 * 255)[..., None], 3, axis=-1).astype(np.uint8)


_IMAGES = {"noise": _noise(), "smooth": _smooth(), "edges": _edges()}
images = pytest.mark.parametrize("image", list(_IMAGES.values()), ids=list(_IMAGES))


def _levels(*arrays: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.stack(arrays), jnp.float32)


def _floats(*values: float) -> jnp.ndarray:
    return jnp.asarray(values, jnp.float32)


def _assert_close(actual: jnp.ndarray, expected: Image.Image | np.ndarray, *, most: int = 3, mean: float = 1.0) -> None:
    """Whole levels in range, at most `most` from Pillow's anywhere and `mean` on average."""
    actual = np.asarray(actual)
    assert np.array_equal(actual, np.clip(np.round(actual), 0, 255))
    difference = np.abs(actual - np.asarray(expected, np.float32))
    assert difference.max() <= most
    assert difference.mean() <= mean


def _assert_blurred(actual: jnp.ndarray, image: np.ndarray, sigma: float) -> None:
    """Pillow's blur to the bit, but for the last bits of the boxes' weight, which Pillow has from float32 as well."""
    pillow = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))
    variance = sigma * sigma / 3
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    weight = round(2**24 / (2 * (whole + fraction) + 1))
    blurs = [
        _three_boxes_each_way(image, weight=weight + rounding)
        for rounding in range(-4, 5)
        if weight + rounding <= 2**24
    ]
    assert any(np.array_equal(pillow, blur) for blur in blurs)
    assert any(np.array_equal(actual, blur) for blur in blurs)


def _three_boxes_each_way(image: np.ndarray, *, weight: int) -> np.ndarray:
    """Box blurs in 24-bit fixed point: `weight` for as many pixels as it is there for, what is left to their neighbours."""
    whole = (2**24 // weight - 1) // 2
    end = (2**24 - (2 * whole + 1) * weight) // 2
    kernel = np.array([end, *[weight] * (2 * whole + 1), end])
    levels = image.astype(np.int64)
    for axis in (1, 1, 1, 0, 0, 0):
        padding = [(whole + 1, whole + 1) if each == axis else (0, 0) for each in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(levels, padding, mode="edge"), kernel.size, axis=axis)
        levels = (windows @ kernel + 2**23) // 2**24
    return levels


def _hue_by_torchvision(image: Image.Image, shift: float) -> Image.Image:
    """torchvision's `adjust_hue` of a Pillow image: the hue channel turned as an unsigned byte."""
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue, np.int32) + int(shift * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


@images
def test_grayscale_is_pillows_luma(image: np.ndarray) -> None:
    expected = np.repeat(np.asarray(Image.fromarray(image).convert("L"))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(pixels.grayscale(_levels(image))[0], expected)


@pytest.mark.parametrize("factor", _FACTORS)
@pytest.mark.parametrize(
    ("adjust", "enhance"),
    [
        (pixels.adjust_brightness, ImageEnhance.Brightness),
        (pixels.adjust_contrast, ImageEnhance.Contrast),
        (pixels.adjust_saturation, ImageEnhance.Color),
    ],
)
@images
def test_blends_are_pillows(image: np.ndarray, adjust, enhance, factor: float) -> None:
    expected = enhance(Image.fromarray(image)).enhance(factor)
    # A float32 product may fall on the other side of a whole level, where Pillow truncates.
    _assert_close(adjust(_levels(image), _floats(factor))[0], expected, most=1, mean=0.01)


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.003, 0.0, 0.05, 0.1, 0.5])
@images
def test_hue_is_torchvisions(image: np.ndarray, shift: float) -> None:
    expected = _hue_by_torchvision(Image.fromarray(image), shift)
    np.testing.assert_array_equal(pixels.adjust_hue(_levels(image), _floats(shift))[0], expected)


@pytest.mark.parametrize("peak", [255, 254, 201, 85, 17, 1])
def test_hsv_is_pillows_wherever_one_channel_has_the_peak(peak: int) -> None:
    """With the peak at 255 these are all the hues and saturations that there are."""
    first, second = np.meshgrid(np.arange(peak + 1), np.arange(peak + 1), indexing="ij")
    channels = [np.full_like(first, peak), first, second]
    image = np.concatenate([np.stack([channels[(k + i) % 3] for i in range(3)], -1) for k in range(3)]).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).convert("HSV"))
    for channel, levels in enumerate(pixels._rgb_to_hsv(_levels(image))):
        np.testing.assert_array_equal(levels[0], expected[..., channel])


def test_rgb_from_hsv_is_pillows_for_every_hue() -> None:
    levels = np.stack(np.meshgrid(np.arange(256), np.arange(0, 256, 5), np.arange(0, 256, 5)), -1)
    levels = levels.reshape(-1, 256, 3).astype(np.uint8)
    expected = np.asarray(Image.fromarray(levels, "HSV").convert("RGB"))
    actual = pixels._hsv_to_rgb(*(jnp.asarray(levels[..., channel], jnp.float32) for channel in range(3)))
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.77, 1.0, 1.41, 1.7, 2.0])
@images
def test_blur_is_pillows_with_its_borders(image: np.ndarray, sigma: float) -> None:
    _assert_blurred(pixels.gaussian_blur(_levels(image), _floats(sigma), max_sigma=2.0)[0], image, sigma)


_BLUR = jax.jit(functools.partial(pixels.gaussian_blur, max_sigma=5.0))


@settings(max_examples=25, deadline=None)
@given(sigma=st.floats(0.0625, 5.0, width=32), seed=st.integers(0, 99))
def test_blur_is_pillows_for_any_sigma(sigma: float, seed: int) -> None:
    image = _noise(height=24, width=19, seed=seed)
    _assert_blurred(_BLUR(_levels(image), _floats(sigma))[0], image, sigma)


def test_blur_has_the_sigma_of_each_image() -> None:
    both = pixels.gaussian_blur(_levels(_noise(), _noise()), _floats(0.4, 1.9), max_sigma=2.0)
    for number, sigma in enumerate([0.4, 1.9]):
        _assert_blurred(both[number], _noise(), sigma)


@pytest.mark.parametrize("max_sigma", [2.0, 5.0])
def test_the_blur_of_accelerators_is_that_of_a_cpu_to_the_bit(max_sigma: float) -> None:
    images = _levels(*(_noise(height=17, width=23, seed=seed) for seed in range(4))).astype(jnp.uint32)
    kernel = pixels._box_kernel(_floats(0.0, 0.3, 0.7 * max_sigma, max_sigma), reach=math.floor(max_sigma) + 1)
    loops, passes = (jax.jit(blur)(images, kernel) for blur in (pixels._blur_in_loops, pixels._blur_in_passes))
    np.testing.assert_array_equal(passes, loops)


def test_blur_of_a_flat_image_and_of_sigma_zero_changes_nothing() -> None:
    flat = jnp.full((1, 12, 12, 3), 255.0)
    np.testing.assert_array_equal(pixels.gaussian_blur(flat, _floats(2.0), max_sigma=2.0), flat)
    np.testing.assert_array_equal(pixels.gaussian_blur(_levels(_noise()), _floats(0.0), max_sigma=2.0)[0], _noise())


@images
def test_solarise_is_pillows(image: np.ndarray) -> None:
    expected = np.asarray(ImageOps.solarize(Image.fromarray(image), threshold=128))
    np.testing.assert_array_equal(pixels.solarise(_levels(image))[0], expected)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_jitter_runs_in_the_order_given(order: tuple[int, ...]) -> None:
    brightness, contrast, saturation, hue = 1.35, 0.65, 1.19, 0.09
    expected = Image.fromarray(_smooth())
    for number in order:
        if number == 3:
            expected = _hue_by_torchvision(expected, hue)
        else:
            enhance = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color][number]
            expected = enhance(expected).enhance([brightness, contrast, saturation][number])
    actual = pixels.color_jitter(
        _levels(_smooth()),
        order=jnp.asarray([order], jnp.int32),
        brightness=_floats(brightness),
        contrast=_floats(contrast),
        saturation=_floats(saturation),
        hue=_floats(hue),
    )
    _assert_close(actual[0], expected, mean=0.02)


def test_jitter_treats_every_image_by_its_own_order_and_factors() -> None:
    orders = jnp.asarray([[0, 1, 2, 3], [3, 2, 1, 0]], jnp.int32)
    factors = [_floats(1.3, 0.7), _floats(0.8, 1.2), _floats(1.2, 0.9), _floats(0.1, -0.1)]
    names = ["brightness", "contrast", "saturation", "hue"]
    both = pixels.color_jitter(_levels(_noise(), _smooth()), order=orders, **dict(zip(names, factors)))
    for number, image in enumerate([_noise(), _smooth()]):
        own = {name: factor[number : number + 1] for name, factor in zip(names, factors)}
        alone = pixels.color_jitter(_levels(image), order=orders[number : number + 1], **own)
        np.testing.assert_array_equal(both[number], alone[0])


def test_jitter_without_hue_skips_the_rounding_through_hsv() -> None:
    one = _floats(1.0)
    settings = {"order": jnp.asarray([[3, 0, 1, 2]], jnp.int32), "brightness": one, "contrast": one, "saturation": one}
    image = _levels(_noise())
    np.testing.assert_array_equal(pixels.color_jitter(image, hue=None, **settings), image)
    assert (pixels.color_jitter(image, hue=_floats(0.0), **settings) != image).any()


def test_where() -> None:
    chosen = pixels.where(jnp.asarray([True, False]), _levels(_noise(), _noise()), _levels(_smooth(), _smooth()))
    np.testing.assert_array_equal(chosen, _levels(_noise(), _smooth()))


def test_without_colour_brightness_and_contrast_act_on_each_channel_as_on_a_grey_image() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 9, 8, 5)).astype(np.float32)
    order = np.stack([rng.permutation(4) for _ in range(3)]).astype(np.int32)
    factors = np.array([0.7, 1.0, 1.4], np.float32)
    jittered = pixels.color_jitter(
        jnp.asarray(images),
        order=jnp.asarray(order),
        brightness=jnp.asarray(factors),
        contrast=jnp.asarray(factors[::-1].copy()),
        saturation=jnp.asarray(factors),
        hue=None,
    )
    for number, channel in np.ndindex(3, 5):
        image = Image.fromarray(images[number, ..., channel].astype(np.uint8))
        for turn in order[number]:
            if turn < 2:
                kind, factor = (
                    (ImageEnhance.Brightness, factors[number]),
                    (ImageEnhance.Contrast, factors[2 - number]),
                )[turn]
                image = kind(image).enhance(float(factor))
        np.testing.assert_array_equal(np.asarray(jittered[number, ..., channel]), np.asarray(image))
