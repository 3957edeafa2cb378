"""Every picture that needs no network, drawn of features that are known; what is refused; what is written."""

import functools
import logging

import matplotlib
import numpy as np
import pytest
from PIL import Image

from flsl_jax.errors import UserError
from flsl_jax.pictures.gallery import Subject, choose_pictures, draw
from flsl_jax.pictures.kinds import KINDS, PictureSettings
from flsl_jax.pictures.neighbours import framed_patch, nearest_patches
from flsl_jax.pictures.panels import OKABE_ITO
from flsl_jax.pictures.runs import Run
from tests.pictures.regions import RegionEncoder, red_left_blue_right
from tests.tiny import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def subject(name="regions", **run):
    return Subject(name=name, encoder=RegionEncoder(), run=Run(step=1, parameters={}, **run) if run else None)


def pixels_of(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def columns_of(pixels, color):
    """Columns in which the colour is."""
    rgb = np.round(255 * np.array(matplotlib.colors.to_rgb(color))).astype(int)
    return np.flatnonzero((np.abs(pixels.astype(int) - rgb).max(-1) <= 2).sum(axis=0) > 20)


def lines_of(kind, images, **settings):
    return KINDS[kind].sheets(RegionEncoder(), images, PictureSettings(**settings))


def test_a_probe_lights_the_region_it_asks_about(tmp_path):
    image = red_left_blue_right()
    for x, lit in ((3.0, [1, 1, 0, 0, 0, 0]), (40.0, [0, 0, 1, 1, 1, 1])):
        (line,) = lines_of("similarity", [image], places=((x, 16.0),))["two_similarity"]
        np.testing.assert_allclose(line.panels["similarity"].values, np.tile(lit, (4, 1)), atol=1e-6)
        settings = PictureSettings(places=((x, 16.0),))
        (drawing,) = draw(["similarity"], [subject()], [image], settings=settings, output=tmp_path, compare=False)
        assert drawing.path == tmp_path / "two_similarity.png"
        pixels = pixels_of(drawing.path)[:, : -int(0.95 * 110)]  # without the colour bar
        bright, dark = (columns_of(pixels, matplotlib.colormaps["viridis"](value)) for value in (1.0, 0.0))
        assert (bright.mean() < dark.mean()) == (x < 16)
        assert len(dark) / len(bright) == pytest.approx(lit.count(0) / lit.count(1), rel=0.1)


def test_a_ring_is_at_the_centre_of_its_patch():
    image = red_left_blue_right()
    for place, centre in (((0.0, 0.0), (3.5, 3.5)), ((8.0, 7.0), (11.5, 3.5)), ((47.0, 31.0), (43.5, 27.5))):
        (line,) = lines_of("similarity", [image], places=(place,))["two_similarity"]
        assert (line.query.x, line.query.y) == centre
        assert line.query.label == f"({place[0]:g}, {place[1]:g})"


def test_ass_of_the_regions():
    (line,) = lines_of("ass", [red_left_blue_right()])["two_ass"]
    assert list(line.panels) == ["tokens"]
    np.testing.assert_allclose(line.panels["tokens"].values, np.tile([0.5, 0.5, 1, 1, 1, 1], (4, 1)), atol=1e-6)


def test_clusters_are_the_regions_with_their_shares():
    (line,) = lines_of("clusters", [red_left_blue_right()], inv_temp=10.0)["clusters"]
    assert line.panels["clusters"].legend == ((OKABE_ITO[0], "67%"), (OKABE_ITO[1], "33%"))
    red, blue = line.panels["clusters"].colours[0, 0], line.panels["clusters"].colours[0, -1]
    assert red[0] > red[2]  # vermillion, the second largest
    assert blue[2] > blue[0]


def test_nearest_patches_are_those_of_other_images_by_cosine():
    rng = np.random.default_rng(0)
    grids = [rng.standard_normal((2 + number, 3, 5)).astype(np.float32) for number in range(4)]
    token = grids[1][0, 2]
    near = nearest_patches(token, grids, k=2, skip=[False, True, False, False])

    def best(grid):
        cosine = np.einsum("hwd,d->hw", grid, token) / np.linalg.norm(grid, axis=-1) / np.linalg.norm(token)
        return cosine.max(), *np.unravel_index(cosine.argmax(), cosine.shape)

    expected = sorted(((*best(grids[number]), number) for number in (0, 2, 3)), reverse=True)[:2]
    assert [(found.row, found.column, found.image) for found in near] == [tuple(item[1:]) for item in expected]
    np.testing.assert_allclose([found.cosine for found in near], [item[0] for item in expected], atol=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (2, 3)])
def test_the_frame_is_around_the_patch(row, column):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255
    framed = framed_patch(pixels, row=row, column=column, patch_size=8)
    assert (framed == 255).all(-1).sum() == 36  # what of the patch lies inside the frame
    assert (framed == (213, 94, 0)).all(-1).sum() == 28


def test_models_in_columns_or_in_folders(tmp_path):
    image, settings = red_left_blue_right(), PictureSettings()
    subjects = [subject("one"), subject("runs/the other, step 3")]
    apart = draw(["ass"], subjects, [image], settings=settings, output=tmp_path, compare=False)
    folders = ["one", "runs_the_other_step_3"]
    assert [drawing.path for drawing in apart] == [tmp_path / folder / "two_ass.png" for folder in folders]
    (together,) = draw(["ass"], subjects, [image], settings=settings, output=tmp_path, compare=True)
    assert together.path == tmp_path / "two_ass.png"
    assert pixels_of(together.path).shape[1] - pixels_of(apart[0].path).shape[1] == pytest.approx(1.66 * 110, abs=2)
    assert not list(tmp_path.rglob("*.tmp"))


def test_runs_are_ordered_by_their_ratio(tmp_path):
    subjects = [
        subject(str(ratio), config=tiny_config(objective={"intra_weight": {"start": ratio, "end": ratio}}))
        for ratio in (0.1, 0.01)
    ]
    (drawing,) = draw(
        ["ratio"], subjects, [red_left_blue_right()], settings=PictureSettings(), output=tmp_path, compare=False
    )
    assert drawing.path == tmp_path / "ratio.png"
    assert [item.run.intra_to_inter for item in subjects] == [0.1, 0.01]


def test_curves_of_several_runs_are_one_figure_to_compare_and_else_one_each(tmp_path):
    subjects = [subject(name, config=tiny_config(), metrics=[{"step": 1, "loss": 1.0}]) for name in ("one", "two")]
    draw_curves = functools.partial(draw, ["curves"], subjects, [], settings=PictureSettings(), output=tmp_path)
    assert [drawing.path for drawing in draw_curves(compare=True)] == [tmp_path / "curves.png"]
    each = [tmp_path / name / "curves.png" for name in ("one", "two")]
    assert [drawing.path for drawing in draw_curves(compare=False)] == each


def test_set_pictures_have_a_row_an_image(tmp_path):
    images = [red_left_blue_right("a"), red_left_blue_right("b", width=32)]
    settings = PictureSettings(foreground=True)
    drawings = draw(
        ["pca", "ass_last", "neighbours", "tsne"],
        [subject()],
        images,
        settings=settings,
        output=tmp_path,
        compare=False,
    )
    names = ["pca", "ass_last", "a_neighbours", "b_neighbours", "a_tsne", "b_tsne"]
    assert [drawing.path.stem for drawing in drawings] == names
    assert all(pixels_of(drawing.path).std() > 5 for drawing in drawings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("atention", "no picture 'atention'; did you mean \"attention\""),
        ("attention", "regions has no attention"),
        ("neighbours", "no other image than two"),
        ("curves", "no --model is a run with metrics"),
        ("ratio", "regions is not a run"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        choose_pictures([name], [subject()], [red_left_blue_right()], PictureSettings())


def test_without_names_what_can_be_drawn_is_and_the_rest_is_told_of(caplog):
    caplog.set_level(logging.INFO, "flsl_jax")
    chosen = choose_pictures([], [subject()], [red_left_blue_right()], PictureSettings())
    assert chosen == ["ass", "ass_last", "similarity", "pca", "clusters"]
    assert caplog.messages[0].startswith("left out --pictures=attention: regions has no attention")
    assert not any(kind in message for message in caplog.messages for kind in ("tsne", "neighbours", "ratio"))
