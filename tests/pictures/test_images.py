"""Images and query places as a person names them."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import Decoding
from flsl_jax.errors import UserError
from flsl_jax.pictures.images import ShownImage, as_colours, file_stem, parse_place, queries, read_images


def save(path, size, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, "red" if mode == "RGB" else 128).save(path)


def test_the_ratio_is_kept_and_sides_are_multiples_of_the_patch(tmp_path):
    save(tmp_path / "a.png", (100, 50))
    save(tmp_path / "b" / "tall.png", (50, 120), mode="L")
    wide, tall = read_images(str(tmp_path), limit=8, size=64, multiple=16)
    assert (wide.name, wide.pixels.shape, wide.file_width, wide.file_height) == ("a", (64, 128, 3), 100, 50)
    assert (tall.name, tall.pixels.shape) == ("b_tall", (160, 64, 3))
    assert [image.name for image in read_images(str(tmp_path / "a.png"), limit=8, size=16, multiple=16)] == ["a"]


def test_scenes_have_the_size_that_is_asked_for():
    images = read_images("scenes", limit=2, size=50, multiple=8)
    assert [(image.name, image.pixels.shape) for image in images] == [
        ("scene_0", (48, 48, 3)),
        ("scene_1", (48, 48, 3)),
    ]


def test_scenes_of_both_kinds_can_be_asked_for():
    plain, hues, textures = (
        read_images(spec, limit=1, size=48, multiple=8)[0] for spec in ("scenes", "scenes:hues", "scenes:textures")
    )
    assert plain.same_as(hues)
    assert not plain.same_as(textures)
    with pytest.raises(UserError, match='scene_kind is "shapes"'):
        read_images("scenes:shapes", limit=1, size=48, multiple=8)


def test_equal_names_are_numbered(tmp_path):
    save(tmp_path / "a.png", (16, 16))
    save(tmp_path / "a.jpg", (16, 16))
    assert [image.name for image in read_images(str(tmp_path), limit=8, size=16, multiple=8)] == ["a_1", "a_2"]


def test_a_damaged_image_is_passed_over_unless_none_is_left(tmp_path, caplog):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"no image can be read \(bad.png"):
        read_images(str(tmp_path), limit=8, size=16, multiple=8)
    save(tmp_path / "good.png", (16, 16))
    assert [image.name for image in read_images(str(tmp_path), limit=8, size=16, multiple=8)] == ["good"]
    assert "bad.png" in caplog.text


@pytest.mark.parametrize(("spec", "message"), [("gone", "does not exist"), ("empty", "holds no image file")])
def test_what_is_not_there_is_named(tmp_path, spec, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        read_images(str(tmp_path / spec), limit=1, size=16, multiple=8)


def test_places_are_pixels_of_the_file_and_patches_those_of_the_shown_image():
    image = ShownImage("a", np.zeros((32, 64, 3), np.uint8), file_width=200, file_height=100)
    (query,) = queries(image, ((199.0, 0.0),))
    assert query.label == "(199, 0)"
    assert query.patch(8) == (0, 7)
    (query,) = queries(image, ((50.0, 60.0),))
    assert query.patch(8) == (2, 2)  # 60.5 · 0.32 = 19.4 and 50.5 · 0.32 = 16.2
    assert [query.patch(8) for query in queries(image, ())] == [(2, 4), (1, 2), (3, 6)]


@pytest.mark.parametrize("place", [(200.0, 5.0), (-1.0, 5.0), (5.0, 100.0)])
def test_a_place_outside_is_one_line(place):
    image = ShownImage("a", np.zeros((32, 64, 3), np.uint8), file_width=200, file_height=100)
    with pytest.raises(UserError, match=r"outside a, which is 200×100 pixels; give x from 0 to 199 and y from 0 to 99"):
        queries(image, (place,))


@pytest.mark.parametrize("text", ["5", "a,b", "1,2,3", ""])
def test_a_place_that_is_no_place(text):
    with pytest.raises(UserError, match="expected x,y"):
        parse_place(text)


def test_file_stems_are_safe():
    assert file_stem("runs/a b, step 3") == "runs_a_b_step_3"
    assert file_stem("../..") == "unnamed"


def test_any_bands_can_be_looked_at() -> None:
    bands = np.arange(2 * 2 * 5, dtype=np.uint8).reshape(2, 2, 5)
    np.testing.assert_array_equal(as_colours(bands), bands[..., :3])
    np.testing.assert_array_equal(as_colours(bands[..., :3]), bands[..., :3])
    np.testing.assert_array_equal(as_colours(bands[..., :2]), bands[..., [0, 1, 1]])
    np.testing.assert_array_equal(as_colours(bands[..., :1]), bands[..., [0, 0, 0]])


def test_a_column_of_a_table_is_chosen(tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    (tmp_path / "pairs.csv").write_text("path,partner\na.png,b.png\n")
    how = {"limit": 8, "size": 16, "multiple": 8, "config": SourceConfig(image_column="partner")}
    assert [image.name for image in read_images(str(tmp_path / "pairs.csv"), **how)] == ["b"]


@pytest.mark.parametrize("spec", ["cells", "cells/a.tif"])
def test_nearly_black_files_and_pages_that_are_not_shown_are_said(spec, tmp_path, caplog):
    (tmp_path / "cells").mkdir()
    page = Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(48, 40))
    page.save(tmp_path / "cells" / "a.tif", save_all=True, append_images=[page])
    read_images(str(tmp_path / spec), limit=8, size=16, multiple=8)
    assert "values from 0 to 1,919 of 0 … 65,535 (1 of 1 files looked at" in caplog.text
    assert "such as a.tif with 2: the first of each is shown" in caplog.text
    caplog.clear()
    window = Decoding(window=(0.0, 1919.0))
    read_images(str(tmp_path / spec), limit=8, size=16, multiple=8, decoding=window)
    assert "nearly black" not in caplog.text
