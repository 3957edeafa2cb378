"""Sizes and places of patches by hand, against Pillow, and against the evaluations' crop."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.errors import UserError
from flsl_jax.features import Fit

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.mark.parametrize(
    ("original", "size", "inner", "padded"),
    [
        ((60, 90), 32, (32, 48), (32, 48)),
        ((60, 92), 32, (32, 49), (32, 56)),
        ((92, 60), 30, (46, 30), (48, 32)),
        ((60, 90), 0, (60, 90), (64, 96)),
        ((10, 1000), 32, (1, 128), (8, 128)),  # at most four times as long
        ((1, 100000), 32, (1, 128), (8, 128)),
    ],
)
def test_the_shorter_side_is_as_asked_and_patches_fit(original, size, inner, padded):
    fit = Fit(patch_size=8, size=size)
    assert fit.inner_size(*original) == inner
    assert fit.padded_size(*original) == padded
    assert fit.patch_boxes(*original).shape == (padded[0] // 8, padded[1] // 8, 4)


def test_pixels_are_those_of_pillow_and_of_the_evaluations_crop():
    expected = Image.fromarray(PIXELS).resize((48, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(Fit(patch_size=8, size=32).image(PIXELS), expected)
    np.testing.assert_array_equal(Fit(patch_size=8, size=32, crop=True).image(PIXELS), ResizeCrop(32).image(PIXELS))
    np.testing.assert_array_equal(Fit(patch_size=8, size=0).image(PIXELS), PIXELS)


def test_boxes_tile_the_image_and_stop_at_its_edge():
    boxes = Fit(patch_size=8, size=30).patch_boxes(60, 90)  # 30 × 45 pixels: 4 rows and 6 columns, the last ones cut
    np.testing.assert_array_equal(boxes[0, 0], [0, 0, 16, 16])
    np.testing.assert_array_equal(boxes[1, 2], [32, 16, 48, 32])
    np.testing.assert_array_equal(boxes[3, 5], [80, 48, 90, 60])
    np.testing.assert_array_equal(boxes[..., 2:] > boxes[..., :2], True)


def test_boxes_of_a_crop_lie_in_the_middle():
    boxes = Fit(patch_size=8, size=32, crop=True).patch_boxes(64, 128)  # halved to 32 × 64, cut from 16 to 48
    np.testing.assert_array_equal(boxes[0, 0], [32, 0, 48, 16])
    np.testing.assert_array_equal(boxes[-1, -1], [80, 48, 96, 64])
    upright = Fit(patch_size=8, size=32, crop=True).patch_boxes(128, 64)
    np.testing.assert_array_equal(upright[..., [1, 0, 3, 2]].swapaxes(0, 1), boxes)


@pytest.mark.parametrize("crop", [False, True])
def test_a_patch_shows_what_its_box_holds(crop):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[20:30, 40:50] = 255
    fit = Fit(patch_size=4, size=24, crop=crop)
    levels = fit.image(pixels)[..., 0]
    levels = np.pad(levels, [(0, -side % 4) for side in levels.shape])
    row, column = np.unravel_index(
        levels.reshape(len(levels) // 4, 4, -1, 4).sum(axis=(1, 3)).argmax(), (6, levels.shape[1] // 4)
    )
    left, top, right, bottom = fit.patch_boxes(60, 90)[row, column]
    np.testing.assert_allclose([left, top, right, bottom], [40, 20, 50, 30], atol=6)


def test_sizes_that_do_not_fit_are_one_line():
    with pytest.raises(UserError, match="size is 30; crops need a multiple of the model's patch of 8 px, such as 32"):
        Fit(patch_size=8, size=30, crop=True)
    with pytest.raises(UserError, match="size is -1; expected"):
        Fit(patch_size=8, size=-1)
