"""Objects and regions over an image, where they are and in whose colours."""

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from flsl_jax.pictures.panels import OKABE_ITO
from flsl_jax.transfer.pictures.drawing import OTHERS, Mark, draw_objects, draw_regions, image_colors, legend_of

RED, BLUE, GREY = (255, 0, 0), (0, 0, 255), (100, 100, 100)


def grey(height=40, width=60):
    return np.full((height, width, 3), 100, np.uint8)


def mark(box, color="#FF0000", words="", **more):
    return Mark(box=box, words=words, color=color, **more)


def has(picture, color):
    return (np.asarray(picture) == color).all(axis=-1)


def test_a_small_image_is_enlarged_with_the_box_where_the_object_is():
    picture = draw_objects(grey(), [mark([10, 5, 20, 30])])
    assert picture.size == (600, 400)
    rows, columns = np.nonzero(has(picture, RED))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (100, 300, 50, 350)
    assert tuple(np.asarray(picture)[200, 200]) == GREY


def test_a_cut_shows_its_part_alone_and_a_large_picture_is_reduced():
    picture = draw_objects(grey(400, 1000), [mark([100, 100, 50, 50])], cut=(100, 100, 500, 400), longest=200)
    assert picture.size == (200, 150)
    rows, columns = np.nonzero(has(picture, RED))
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (0, 0, 25, 25)


def test_the_first_object_is_on_top_and_a_mask_has_its_colour():
    whole = np.ones((40, 60), bool)
    same = [mark([10, 5, 20, 30], "#0000FF"), mark([10, 5, 20, 30])]
    picture = draw_objects(grey(), same)
    assert has(picture, BLUE).any()
    assert not has(picture, RED).any()
    masked = np.asarray(draw_objects(grey(), [mark([0, 0, 60, 40], "#0000FF", mask=whole)]))[200, 300]
    assert tuple(masked) == (55, 55, 170)


def test_words_that_would_cover_those_of_an_object_before_it_are_left_out():
    near = [mark([10, 20, 20, 10], "#0000FF", "cat"), mark([11, 20, 20, 10], words="dog")]
    apart = [near[0], mark([10, 33, 20, 5], words="dog")]
    counts = [has(draw_objects(grey(), marks), RED).sum() for marks in (near, apart)]
    silent = [has(draw_objects(grey(), [marks[0], mark(marks[1].box)]), RED).sum() for marks in (near, apart)]
    assert counts[0] == silent[0]
    assert counts[1] > silent[1]


def test_a_dashed_box_has_gaps_of_black():
    picture = draw_objects(grey(), [mark([10, 5, 20, 30], dashed=True)])
    top = np.asarray(picture)[50, 105:295]
    assert {tuple(color) for color in top.tolist()} == {RED, (0, 0, 0)}


def test_regions_have_their_colours_and_others_stay_clear():
    labels = np.zeros((40, 60), np.int64)
    labels[:, 30:] = 3
    picture = np.asarray(draw_regions(grey(), labels, {3: "#0000FF"}))
    assert tuple(picture[200, 100]) == GREY
    assert tuple(picture[200, 500]) == (55, 55, 170)


def test_few_classes_have_fixed_colours_and_of_many_the_frequent_ones_have_one():
    assert image_colors({4: 1, 2: 9}, classes=7) == {2: OKABE_ITO[2], 4: OKABE_ITO[4]}
    colors = image_colors({number: number for number in range(20, 30)}, classes=80)
    assert list(colors)[:2] == [29, 28]
    assert colors[29] == OKABE_ITO[0]
    assert [colors[number] for number in (22, 21, 20)] == [OTHERS] * 3
    legend = legend_of(colors, {number: f"class {number}" for number in range(80)})
    assert len(legend) == 8
    assert (legend[0], legend[-1]) == ((OKABE_ITO[0], "class 29"), (OTHERS, "other classes"))
