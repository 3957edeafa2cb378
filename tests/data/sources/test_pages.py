"""Every page of a file is a record: in order, with its own pixels and name, and with exact random access."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import RGB, pixels_of
from flsl_jax.data.sources.opening import open_source
from flsl_jax.data.sources.pages import page_numbers
from flsl_jax.errors import UserError

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def save_pages(path, colours, **options):
    pages = [Image.new("RGB", (8, 6), colour) for colour in colours]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)


@pytest.fixture
def folder(tmp_path):
    save_pages(tmp_path / "a.tif", COLOURS)
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "b.png")
    save_pages(tmp_path / "c.webp", COLOURS[:2], lossless=True)
    (tmp_path / "d.tif").write_bytes(b"II*\0damaged")
    return tmp_path


def opened(folder, **keys):
    return open_source(SourceConfig(root=str(folder), **keys))


def pixel(record):
    return tuple(pixels_of(record.image, name=record.name, decoding=RGB, page=record.page)[3, 4].tolist())


def test_first_is_the_first_page_of_each_file(folder):
    source = opened(folder)
    assert [pixel(source[index]) for index in range(3)] == [COLOURS[0], (9, 9, 9), COLOURS[0]]


def test_all_are_records_with_names_of_their_own(folder):
    source = opened(folder, pages="all")
    names = ["a.tif#1", "a.tif#2", "a.tif#3", "b.png", "c.webp#1", "c.webp#2", "d.tif"]
    assert [source[index].name for index in range(len(source))] == names
    assert [source.path(index) for index in range(len(source))] == names
    expected = [*COLOURS, (9, 9, 9), *COLOURS[:2]]
    for index in (5, 0, 3, 2, 4, 1):  # in any order
        assert pixel(source[index]) == expected[index]
    copied = pickle.loads(pickle.dumps(source))
    assert (len(copied), copied.digest, pixel(copied[1])) == (7, source.digest, COLOURS[1])


def test_the_digest_tells_pages_apart(folder):
    before = opened(folder, pages="all").digest
    assert before not in (opened(folder).digest, opened(folder, pages="all", limit=3).digest)
    save_pages(folder / "a.tif", COLOURS[:2])
    assert opened(folder, pages="all").digest != before


def test_files_of_one_page_stay_as_they_are(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "a.tif")
    Image.new("RGB", (8, 6)).save(tmp_path / "b.jpg")
    assert opened(tmp_path, pages="all").digest == opened(tmp_path).digest


def test_labels_are_those_of_the_files(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        save_pages(tmp_path / name / "a.tif", COLOURS[:2])
    source = opened(tmp_path, pages="all")
    assert source.class_names == ("cat", "dog")
    assert [source[index].label for index in range(4)] == [0, 0, 1, 1]


def test_arrays_of_four_axes_are_pages():
    values = np.arange(3 * 2 * 4 * 3, dtype=np.uint8).reshape(3, 2, 4, 3)
    for array in (values, np.asfortranarray(values)):
        buffer = io.BytesIO()
        np.save(buffer, array)
        assert page_numbers(buffer.getvalue()) == [0, 1, 2]
        for page in range(3):
            np.testing.assert_array_equal(pixels_of(buffer.getvalue(), name="a", page=page), values[page])


def test_smaller_copies_are_no_pages():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(np.full((8, 8), 10, np.uint8))
        file.write(np.full((4, 4), 20, np.uint8), subfiletype=1)
        file.write(np.full((8, 8), 30, np.uint8))
    data = buffer.getvalue()
    assert page_numbers(data) == [0, 2]
    assert [int(pixels_of(data, name="a", page=page).max()) for page in page_numbers(data)] == [10, 30]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"boxes": "x.json"}, r"boxes=x.json belong to images, and pages=all makes several"),
        (
            {"name": "scenes", "count": 3, "scene_size": 16},
            "pages=all takes the files of a folder or a list, and .* scenes",
        ),
    ],
)
def test_what_has_no_pages_is_refused(folder, keys, message):
    with pytest.raises(UserError, match=message):
        opened(folder, pages="all", **keys)
