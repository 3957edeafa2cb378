"""Values become levels as worked out by hand, and as Pillow has them."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.images.levels import RGB, DecodeError, Decoding, adapted, luma, on_white, to_levels

WINDOW = Decoding(channels=1, window=(1000.0, 1510.0))


def test_whole_numbers_are_rounded_to_255ths_of_the_16_bit_range():
    values = np.array([[0, 128, 129, 257, 32767, 65535]], np.uint16)
    assert to_levels(values, RGB, name="a").tolist() == [[0, 0, 1, 1, 127, 255]]
    assert to_levels(values.astype(np.int32), RGB, name="a").tolist() == [[0, 0, 1, 1, 127, 255]]


def test_bytes_stay_and_truth_values_are_black_and_white():
    values = np.array([[0, 7, 255]], np.uint8)
    assert to_levels(values, WINDOW, name="a") is values
    assert to_levels(values > 6, RGB, name="a").tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32, np.float64])
def test_a_window_is_stretched_and_cut_off(kind):
    # (v - 1000) / 510 · 255 = (v - 1000) / 2
    values = np.array([[0, 999, 1000, 1001, 1003, 1255, 1510, 30000]], kind)
    assert to_levels(values, WINDOW, name="a").tolist() == [[0, 0, 0, 1, 2, 128, 255, 255]]


def test_what_is_not_a_number_is_black():
    values = np.array([[np.nan, 1510.0, np.inf, -np.inf]], np.float32)
    assert to_levels(values, WINDOW, name="a").tolist() == [[0, 255, 255, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 2), np.float16), "floating-point pixels have no known range; set data.window"),
        (np.full((2, 2), -1, np.int16), "16-bit pixels outside 0 … 65535; set data.window"),
        (np.full((2, 2), 70000, np.uint32), "32-bit pixels outside 0 … 65535; set data.window"),
    ],
)
def test_values_without_a_range_are_refused(values, message):
    with pytest.raises(DecodeError, match=f"a.tif: {message}"):
        to_levels(values, RGB, name="a.tif")


def test_luma_is_pillows():
    colours = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    np.testing.assert_array_equal(luma(colours)[..., 0], np.asarray(Image.fromarray(colours).convert("L")))


def test_transparency_on_white_is_pillows_up_to_rounding():
    rng = np.random.default_rng(0)
    colours, alpha = rng.integers(0, 256, (40, 40, 3), np.uint8), rng.integers(0, 256, (40, 40), np.uint8)
    image = Image.fromarray(np.dstack([colours, alpha]))
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image))[..., :3]
    assert np.abs(on_white(colours, alpha, premultiplied=False).astype(int) - expected).max() <= 1
    # Premultiplied: 100 at half transparency (128) is 100 + 255 · 127 / 255.
    assert on_white(np.full((1, 1, 1), 100, np.uint8), np.full((1, 1), 128, np.uint8), premultiplied=True).item() == 227


def test_bands_are_never_left_out_or_made_up():
    grey, colour, five = (np.zeros((2, 2, bands), np.uint8) for bands in (1, 3, 5))
    assert adapted(grey, RGB, name="a").shape == (2, 2, 3)
    assert adapted(colour, Decoding(channels=1), name="a").shape == (2, 2, 1)
    assert adapted(five, Decoding(channels=5), name="a") is five
    for image, channels in ((five, 3), (five, 1), (grey, 5), (colour, 4), (five, 4)):
        with pytest.raises(DecodeError, match=rf"a: it has {image.shape[-1]} bands?, and {channels} are wanted"):
            adapted(image, Decoding(channels=channels), name="a")
