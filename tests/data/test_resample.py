"""Crops against Pillow's crop and resize; crop boxes against torchvision's RandomResizedCrop written out here."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flsl_jax.data.resample import BOX_DRAWS, crop_resize, random_crop_box

_SIZE = 32
_BICUBIC = Image.Resampling.BICUBIC


def _noise(seed: int = 0, *, height: int = _SIZE, width: int = _SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _smooth() -> np.ndarray:
    y, x = np.mgrid[0:_SIZE, 0:_SIZE]
    return np.stack([255 * x / 31, 255 * y / 31, 128 + 100 * np.sin((x + y) / 6)], -1).astype(np.uint8)


def _pillow(image: np.ndarray, box: tuple[int, ...], size: int) -> np.ndarray:
    """Pillow 13's crop and resize, axis by axis, so that older versions give the same."""
    y0, x0, y1, x1 = box
    crop = Image.fromarray(image).crop((x0, y0, x1, y1))
    rows_first = crop.height - size > 2 * max(crop.width - size, 0)
    first = (crop.width, size) if rows_first else (size, crop.height)
    return np.asarray(crop.resize(first, _BICUBIC).resize((size, size), _BICUBIC), np.float32)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="before Pillow 13 columns are always first")
@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40))
def test_the_reference_is_one_resize_of_pillow(height: int, width: int, size: int) -> None:
    black_and_white = _noise(height=height, width=width) // 128 * 255
    one_call = Image.fromarray(black_and_white).resize((size, size), _BICUBIC)
    np.testing.assert_array_equal(_pillow(black_and_white, (0, 0, height, width), size), one_call)


def _resized(image: np.ndarray, box: tuple[int, ...], size: int) -> np.ndarray:
    return np.asarray(crop_resize(jnp.asarray(image, jnp.float32)[None], jnp.asarray([box], jnp.float32), size=size)[0])


def _weights(length: int, size: int) -> np.ndarray:
    """Pillow's antialiased bicubic along one axis, float64 [size, length]."""
    scale = length / size
    centre, stretch = (np.arange(size)[:, None] + 0.5) * scale, max(scale, 1.0)
    pixel = np.arange(length)
    first, stop = (np.trunc(centre + sign * 2.0 * stretch + 0.5) for sign in (-1, 1))
    x = np.abs((pixel + 0.5 - centre) / stretch)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1.0, -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0)) * (pixel >= first) * (pixel < stop)
    return weights / weights.sum(axis=1, keepdims=True)


def _levels_of_ties(image: np.ndarray, box: tuple[int, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest level of each pixel, ties of either axis rounded down or up: equal where there is none.

    A tie is within what Pillow's weights, of 22 bits, leave open: 32 of them times 255 levels times 2⁻²³.
    """
    y0, x0, y1, x1 = box
    low = high = image[y0:y1, x0:x1].astype(np.float64)
    rows_first = (y1 - y0) - size > 2 * max((x1 - x0) - size, 0)
    for axis in (0, 1) if rows_first else (1, 0):
        weights = _weights(low.shape[axis], size)
        parts = [np.maximum(weights, 0.0), np.minimum(weights, 0.0)]
        low, high = (
            sum(np.moveaxis(np.tensordot(part, levels, (1, axis)), 0, axis) for part, levels in zip(parts, pair))
            for pair in ((low, high), (high, low))
        )
        low, high = (np.clip(np.round(levels + tie), 0, 255) for levels, tie in ((low, -1e-3), (high, 1e-3)))
    return low, high


def _assert_is_pillows(actual: np.ndarray, image: np.ndarray, box: tuple[int, ...], size: int) -> None:
    """Whole levels that differ from Pillow's in ties only."""
    low, high = _levels_of_ties(image, box, size)
    assert (high - low).max() <= 3
    expected = _pillow(image, box, size)
    for levels in (expected, actual):
        assert np.array_equal(levels, np.round(levels))
        assert np.all((low <= levels) & (levels <= high))


@pytest.mark.parametrize("image", [_noise(), _smooth()], ids=["noise", "smooth"])
@pytest.mark.parametrize("size", [7, 16, 32, 57])
@pytest.mark.parametrize(
    "box", [(0, 0, 32, 32), (0, 0, 9, 14), (20, 22, 32, 32), (0, 19, 31, 32), (5, 3, 28, 24), (4, 4, 5, 6)]
)
def test_crops_are_pillows_up_and_down_with_their_borders(image: np.ndarray, size: int, box: tuple[int, ...]) -> None:
    _assert_is_pillows(_resized(image, box, size), image, box, size)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_box_of_any_image_is_pillows(data: st.DataObject) -> None:
    y0, x0 = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 30))
    box = (y0, x0, data.draw(st.integers(y0 + 1, 32)), data.draw(st.integers(x0 + 1, 32)))
    image = _noise(data.draw(st.integers(0, 99)))
    _assert_is_pillows(_resized(image, box, 24), image, box, 24)


def test_the_whole_image_at_its_own_size_is_itself() -> None:
    np.testing.assert_array_equal(_resized(_noise(), (0, 0, _SIZE, _SIZE), _SIZE), _noise())


def test_pixels_outside_the_box_are_never_read() -> None:
    box = (6, 8, 25, 21)
    other = np.full_like(_noise(), 255)
    other[6:25, 8:21] = _noise()[6:25, 8:21]
    np.testing.assert_array_equal(_resized(other, box, 16), _resized(_noise(), box, 16))


@pytest.mark.parametrize("size", [16, 32])
def test_each_image_has_its_own_box_and_order_of_axes(size: int) -> None:
    images = [_noise(1), _noise(2), _noise(3)]
    boxes = [(0, 2, 32, 20), (3, 0, 17, 30), (1, 4, 31, 30)]
    resized = crop_resize(jnp.asarray(np.stack(images), jnp.float32), jnp.asarray(boxes, jnp.float32), size=size)
    for actual, image, box in zip(resized, images, boxes):
        _assert_is_pillows(np.asarray(actual), image, box, size)


def _boxes(count: int, *, size: int, area: tuple[float, float], aspect: tuple[float, float], seed: int = 0):
    draws = jax.random.uniform(jax.random.key(seed), (count, BOX_DRAWS))
    return np.asarray(random_crop_box(draws, size=size, area=area, aspect=aspect))


def _torchvision_box(rng: np.random.Generator, *, size: int, area: tuple[float, float], aspect: tuple[float, float]):
    """`RandomResizedCrop.get_params` of a square image, with NumPy's draws."""
    for _ in range(10):
        target = size * size * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        width, height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < width <= size and 0 < height <= size:
            y0, x0 = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            return y0, x0, y0 + height, x0 + width
    width, height = size, size
    if aspect[0] > 1:
        height = round(width / aspect[0])
    elif aspect[1] < 1:
        width = round(height * aspect[1])
    y0, x0 = (size - height) // 2, (size - width) // 2
    return y0, x0, y0 + height, x0 + width


@pytest.mark.parametrize("area", [(0.5, 1.0), (0.05, 0.4)])
def test_boxes_are_whole_inside_and_of_the_asked_area_and_aspect(area: tuple[float, float]) -> None:
    boxes = _boxes(2000, size=224, area=area, aspect=(3 / 4, 4 / 3))
    assert np.array_equal(boxes, np.round(boxes))
    assert boxes.min() >= 0
    assert boxes.max() <= 224
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # Rounding moves a side by half a pixel.
    side = math.sqrt(area[0] / (4 / 3)) * 224
    slack = (1 + 0.5 / side) ** 2
    share = height * width / 224**2
    assert area[0] / slack <= share.min()
    assert share.max() <= min(area[1] * slack, 1.0)
    assert 3 / 4 / slack <= (width / height).min()
    assert (width / height).max() <= 4 / 3 * slack


@pytest.mark.parametrize("area", [(0.5, 1.0), (0.05, 0.4), (0.8, 1.0)])
def test_boxes_are_distributed_as_torchvisions(area: tuple[float, float]) -> None:
    count, aspect = 4000, (3 / 4, 4 / 3)
    ours = _boxes(count, size=96, area=area, aspect=aspect)
    rng = np.random.default_rng(1)
    theirs = np.array([_torchvision_box(rng, size=96, area=area, aspect=aspect) for _ in range(count)])
    # Two-sample Kolmogorov-Smirnov distance of each coordinate and side; 1.95 · sqrt(2 / n) is its 0.1 % point.
    for measure in (*np.eye(4), np.array([-1, 0, 1, 0]), np.array([0, -1, 0, 1])):
        left, right = np.sort(ours @ measure), np.sort(theirs @ measure)
        at = np.union1d(left, right)
        distance = np.abs(np.searchsorted(left, at, "right") - np.searchsorted(right, at, "right")).max() / count
        assert distance < 1.95 * math.sqrt(2 / count)


@pytest.mark.parametrize(
    ("aspect", "expected"),
    [((3 / 4, 4 / 3), (0, 0, 24, 24)), ((2.0, 3.0), (6, 0, 18, 24)), ((1 / 3, 1 / 2), (0, 6, 24, 18))],
)
def test_without_a_fitting_draw_the_box_is_the_largest_centred_one(aspect, expected) -> None:
    # An area of four images never fits.
    assert (_boxes(5, size=24, area=(4.0, 4.1), aspect=aspect) == np.array(expected)).all()
