"""A sample of a data set shows which values its deep files have, and the window that follows from them."""

import io

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.pages import page_numbers
from flsl_jax.data.sources import FolderSource
from flsl_jax.data.survey import deep_values, survey
from tests.data.test_png import png16

RAMP = np.arange(100, 100 + 40 * 50).reshape(40, 50).astype(np.uint16)


def encoded(image, fmt, **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def test_a_window_holds_all_but_a_thousandth_at_each_end(tmp_path):
    np.save(tmp_path / "ramp.npy", RAMP)
    found = survey(FolderSource(tmp_path))
    assert (found.seen, found.deep[0].low, found.deep[0].high) == (1, 100, 2099)
    # A thousandth of 1999 steps is 2: 101.999 and 2097.001, outwards to whole numbers.
    assert found.window() == (101.0, 2098.0)


@pytest.mark.parametrize("brightest", [4095, 65535])
def test_files_that_use_little_of_the_range_are_named(tmp_path, brightest):
    for number, share in enumerate((0.5, 1.0, 1.0)):
        values = np.linspace(3, brightest * share, 2000).reshape(40, 50).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{number}.png")
    Image.new("RGB", (40, 50)).save(tmp_path / "plain.jpg")
    found = survey(FolderSource(tmp_path))
    expected = (
        "files with 16 bits have values from 3 to 4,095 of 0 … 65,535 (3 of 4 files looked at; the darkest is 0.png, up to "
        "2,047): with 8 bits, which networks see, they are nearly black"
    )
    assert found.dark() == (expected if brightest == 4095 else "")


@pytest.mark.parametrize("bands", [3, 4])
def test_colour_in_png_has_all_its_bits_and_no_transparency(bands):
    values = np.random.default_rng(0).integers(0, 65536, (9, 8, bands)).astype(np.uint16)
    np.testing.assert_array_equal(deep_values(png16(values)), values[..., :3].reshape(-1))


def test_bands_of_a_large_image_are_all_seen():
    values = np.zeros((400, 500, 4), np.uint16)
    values[..., 3] = 9
    buffer = io.BytesIO()
    np.save(buffer, values)
    found = deep_values(buffer.getvalue())
    assert len(found) < values.size
    assert set(found.tolist()) == {0, 9}


def test_what_is_not_a_number_and_what_is_plain_does_not_count():
    buffer = io.BytesIO()
    np.save(buffer, np.array([[np.nan, 1.0], [np.inf, 3.0]]))
    assert deep_values(buffer.getvalue()).tolist() == [1.0, 3.0]
    assert deep_values(encoded(Image.new("RGB", (8, 8)), "PNG")) is None
    assert deep_values(encoded(Image.new("L", (8, 8)), "TIFF")) is None


def test_damaged_files_are_passed_over(tmp_path):
    (tmp_path / "a.png").write_bytes(png16(RAMP[..., None])[:60])
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    found = survey(FolderSource(tmp_path))
    assert (found.seen, found.deep, found.pages, found.window()) == (2, (), {}, None)


def test_one_value_alone_has_no_window(tmp_path):
    np.save(tmp_path / "a.npy", np.full((8, 8), 7, np.uint16))
    assert survey(FolderSource(tmp_path)).window() is None


@pytest.mark.parametrize("fmt", ["TIFF", "GIF", "PNG", "WEBP"])
def test_pages_are_counted(fmt):
    pages = [Image.new("RGB", (8, 8), (60 * number, 0, 0)) for number in range(3)]
    assert page_numbers(encoded(pages[0], fmt, save_all=True, append_images=pages[1:])) == [0, 1, 2]
    assert page_numbers(encoded(pages[0], fmt)) == [0]
