"""A sample of a data set shows which values its deep files have, and the window that follows from them."""

import io

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.records import Record
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.data.sources.pages import page_numbers
from flsl_jax.data.sources.survey import check_readable, deep_values, survey
from flsl_jax.errors import UserError
from tests.data.images.test_png import png16

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


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "NPY"])
def test_the_values_that_are_kept_do_not_keep_the_image(fmt):
    pixels, buffer = np.full((700, 700), 9, np.uint16), io.BytesIO()
    np.save(buffer, pixels) if fmt == "NPY" else Image.fromarray(pixels).save(buffer, fmt)
    found = deep_values(buffer.getvalue())
    assert found.base is None
    assert found.size == 70_000  # every seventh


class Asked:
    """Records that are all one image; `asked` has the numbers of those that were read."""

    name, class_names, digest = "asked", (), ""

    def __init__(self, image, path):
        self.image, self.path, self.asked = image, path, []

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        self.asked.append(index)
        return Record(image=self.image, name=self.path(index))


@pytest.mark.parametrize("path", ["trip/day1.MP4/{:06d}", "photos/{}.JPG"])
def test_frames_of_videos_and_jpeg_files_are_not_read(path):
    source = Asked(np.zeros((8, 8, 3), np.uint8), path.format)
    assert survey(source).seen == 64
    assert not source.asked


def test_one_image_that_can_be_read_is_enough(tmp_path):
    source = Asked(encoded(Image.new("RGB", (8, 8)), "PNG"), str)
    check_readable(source, RGB)
    assert source.asked == [0]
    for number in range(63):
        (tmp_path / f"{number:02}.png").write_bytes(b"no image")
    Image.new("L", (8, 8)).save(tmp_path / "63.png")
    check_readable(FolderSource(tmp_path), RGB)


def test_images_of_which_none_can_be_read_are_refused_with_the_reason_of_the_first(tmp_path):
    source = Asked(encoded(Image.new("RGB", (8, 8)), "JPEG"), str)
    wrong = (
        "^asked: none of 64 images looked at can be read; the first: 0: it has 3 bands, and 4 are wanted .*; "
        "set config.data.channels=3"
    )
    with pytest.raises(UserError, match=wrong):
        check_readable(source, Decoding(channels=4))
    np.save(tmp_path / "a.npy", np.zeros((8, 8)))
    np.save(tmp_path / "b.npy", np.zeros((8, 8), np.uint8)[:0])
    with pytest.raises(UserError, match=r"no image of 2 can be read; the first: a\.npy: floating-point pixels have no"):
        check_readable(FolderSource(tmp_path), RGB)
    check_readable(FolderSource(tmp_path), Decoding(window=(0.0, 1.0)))


def test_of_a_large_stack_the_first_page_alone_is_read(tmp_path, monkeypatch):
    pages = [Image.fromarray(np.full((30, 40), 700 + number, np.uint16)) for number in range(5)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    source = FolderSource(tmp_path)
    before = survey(source)
    monkeypatch.setattr("flsl_jax.data.images.tiff_page.LARGE_BYTES", 1)
    monkeypatch.setattr("flsl_jax.data.sources.files.read_file", None)
    found = survey(source)
    assert (found.pages, found.seen) == (before.pages, before.seen) == ({"stack.tif": 5}, 1)
    assert found.deep[0].high == before.deep[0].high == 700
