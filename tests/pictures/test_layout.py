"""Where panels stand: every image once, titles where they change, and at most three columns on a phone."""

import numpy as np
import pytest

from flsl_jax.pictures.images import queries
from flsl_jax.pictures.layout import NARROW, WIDE, rows_of
from flsl_jax.pictures.panels import Line, MapPanel, Sheet
from tests.pictures.regions import red_left_blue_right

MAP = MapPanel(np.zeros((4, 6)))


def shown(sheet, style):
    """The rows: their labels, and for each cell its title, "image" for an image and "" for an empty one."""
    return [
        (row.label, ["image" if cell.is_image else cell.title if cell.panel else "" for cell in row.cells])
        for row in rows_of(sheet, style)
    ]


def lines(names, *, images=1, places=0):
    made = []
    for number in range(images):
        image = red_left_blue_right(f"photo_{number}")
        asked = queries(image, ())[:places] if places else [None]
        made += [Line(image, dict.fromkeys(names, MAP), query) for query in asked]
    return made


@pytest.mark.parametrize("style", [WIDE, NARROW])
@pytest.mark.parametrize("models", [("one",), ("one", "two"), ("one", "two", "three", "four")])
@pytest.mark.parametrize("places", [0, 3])
@pytest.mark.parametrize("panels", [1, 2, 14])
def test_each_image_stands_on_a_sheet_once_and_every_panel_too(style, models, places, panels):
    names = [f"layer {number}" for number in range(panels)]
    made = lines(names, images=2, places=places)
    rows = rows_of(Sheet(dict.fromkeys(models, made), "title"), style)
    cells = [cell for row in rows for cell in row.cells]
    assert sum(cell.is_image for cell in cells) == 2
    assert sum(cell.panel is not None for cell in cells) == len(made) * panels * len(models)
    assert max(len(row.cells) for row in rows) <= style.columns
    assert [len(cell.places) for cell in cells if cell.is_image] == [places, places]


def test_a_long_line_flows_around_its_image():
    sheet = Sheet({"one": lines(["a", "b", "c", "d"])}, "title")
    assert shown(sheet, WIDE) == [("", ["image", "a", "b", "c", "d"])]
    assert shown(sheet, NARROW) == [("", ["image", "a", "b"]), ("", ["c", "d"])]


def test_the_maps_of_several_places_stand_beside_each_other_with_their_numbers():
    sheet = Sheet({"one": lines(["similarity"], places=3)}, "title")
    assert shown(sheet, WIDE) == [("", ["image", "1: (24, 16)", "2: (12, 8)", "3: (36, 24)"])]
    image, first, *_ = rows_of(sheet, WIDE)[0].cells
    assert [place.number for place in image.places] == ["1", "2", "3"]
    assert [place.number for place in first.places] == [""]


def test_models_are_columns_and_their_rows_share_the_image():
    sheet = Sheet(dict.fromkeys(("one", "two", "three"), lines(["similarity"], places=2)), "title")
    assert shown(sheet, WIDE) == [
        ("1: (24, 16)", ["image", "one", "two", "three"]),
        ("2: (12, 8)", ["", "", "", ""]),
    ]
    assert shown(sheet, NARROW) == [("", ["image"]), ("1: (24, 16)", ["one", "two", "three"]), ("2: (12, 8)", [""] * 3)]


def test_rows_of_several_images_have_their_names_and_titles_once():
    sheet = Sheet({"one": lines(["PCA"], images=3)}, "title")
    rows = [("photo_0", ["image", "PCA"]), ("photo_1", ["image", ""]), ("photo_2", ["image", ""])]
    assert shown(sheet, WIDE) == shown(sheet, NARROW) == rows


def test_a_row_without_a_panel_is_left_out():
    full, short = lines(["layer 0", "tokens"]), lines(["tokens"])
    sheet = Sheet({"one": full, "two": full, "three": full, "raw pixels": short}, "title")
    assert shown(sheet, NARROW) == [
        ("", ["image"]),
        ("layer 0", ["one", "two", "three"]),
        ("tokens", ["", "", ""]),
        ("tokens", ["raw pixels"]),
    ]
    assert [label for label, _ in shown(sheet, WIDE)] == ["layer 0", "tokens"]
