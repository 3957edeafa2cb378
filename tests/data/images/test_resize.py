"""Channels are resized each by itself, as Pillow resizes a grey image, whatever their number."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.images.resize import resize, resize_square

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 16])
def test_a_channel_is_pillows_grey_image(channels):
    image = RNG.integers(0, 256, (37, 53, channels), np.uint8)
    large, small = resize(image, height=40, width=70), resize_square(image, size=16)
    assert (large.shape, small.shape) == ((40, 70, channels), (16, 16, channels))
    for channel in range(channels):
        grey = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        np.testing.assert_array_equal(large[..., channel], np.asarray(grey.resize((70, 40), Image.Resampling.BICUBIC)))
        expected = np.asarray(grey.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(small[..., channel] - expected).max() <= 2


def test_a_fourth_channel_of_zeros_leaves_the_others_alone():
    image = RNG.integers(0, 256, (30, 30, 4), np.uint8)
    image[..., 3] = 0
    for function in (lambda image: resize(image, height=11, width=12), lambda image: resize_square(image, size=11)):
        np.testing.assert_array_equal(function(image)[..., :3], function(image[..., :3]))
