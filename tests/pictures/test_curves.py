"""Pictures of the curves of one run and of several."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from flsl_jax.pictures.curves import compare_curves, save_curves, save_panels
from flsl_jax.training.watching.alarms import Alarm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)


@pytest.mark.parametrize("names", [("loss",), ("loss", "mean_entropy", "agreement", "knn_any", "knn_pixels_any")])
def test_every_line_is_drawn(tmp_path, names):
    lines = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 9)]
    save_curves(lines, tmp_path / "curves.png", log_centroids=3.0)
    assert BLUE in colors_of(tmp_path / "curves.png")


@pytest.fixture(name="figures")
def _figures(monkeypatch):
    """The figures that are saved, kept open."""
    kept = []
    monkeypatch.setattr("flsl_jax.pictures.curves.save_figure", lambda figure, path: kept.append(figure))
    yield kept
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()
    return figure.canvas.get_renderer()


def test_panels_are_those_that_have_a_quantity_and_a_single_one_needs_no_legend(figures):
    lines = [{"step": step, "a": step, "b": -step, "lr": 0.1} for step in (1, 2)]
    save_panels(lines, Path("x.png"), panels={"two": ("a", "b", "c"), "none": ("d",), "rate": ("lr",)})
    panels = [axis for axis in figures[0].axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == ["two", "rate"]
    assert [text.get_text() for text in panels[0].get_legend().get_texts()] == ["a", "b"]
    assert panels[1].get_legend() is None


@pytest.mark.parametrize("columns", [1, 2])
def test_legends_cover_no_curve_and_stay_in_the_figure(figures, columns):
    names = ("loss", "mean_entropy", "student_entropy", "agreement", "effective_rank", "knn_any")
    lines = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 9)]
    save_curves(lines, Path("x.png"), log_centroids=3.0, columns=columns)
    (figure,) = figures
    renderer, panels = drawn(figure), [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == [
        "loss terms", "entropies (nats)", "shares", "effective rank", "bbox-aligned k-NN"
    ]  # fmt: skip
    for axis in panels:
        legend = axis.get_legend().get_window_extent(renderer)
        assert legend.x0 >= axis.get_window_extent(renderer).x1
        assert legend.x1 <= figure.bbox.x1 + 1


@pytest.mark.parametrize("columns", [1, 2])
def test_alarms_are_numbered_in_the_panels_and_named_below_them(figures, columns):
    lines = [{"step": step, "loss": 1.0, "mean_entropy": 1.0} for step in range(1, 100)]
    steps = {"undecided": 20, "one_centroid": 10, "dead_centroids": 20, "position_shortcut": 21, "no_agreement": 90}
    alarms = [Alarm(name=name, step=step, value=0.0, message="") for name, step in steps.items()]
    save_curves(lines, Path("x.png"), log_centroids=3.0, alarms=[*alarms, *alarms], columns=columns)
    (figure,) = figures
    renderer = drawn(figure)
    (text,) = (child for child in figure.texts if child.get_text().startswith("alarms"))
    assert " ".join(text.get_text().split()) == (
        "alarms: (1) one_centroid at step 10; (2) undecided, dead_centroids at step 20; (3) position_shortcut at step 21; "
        "(4) no_agreement at step 90"
    )
    named = text.get_window_extent(renderer)
    assert named.x0 >= 0
    assert named.x1 <= figure.bbox.x1
    for axis in figure.axes:
        marks = [mark.get_window_extent(renderer) for mark in axis.texts]
        assert [mark.get_text() for mark in axis.texts] == ["1", "2", "3", "4"]
        assert not any(one.overlaps(other) for one in marks for other in marks if one is not other)
        assert named.y1 < axis.get_tightbbox(renderer).y0


def test_every_run_has_its_color_in_one_figure(tmp_path):
    runs = {
        name: [{"step": step, "loss": scale / step, "knn_any": 0.1 * step * scale} for step in range(1, 9)]
        for name, scale in (("first", 1.0), ("second", 2.0))
    }
    compare_curves(runs | {"untrained": []}, tmp_path / "curves.png")
    assert {BLUE, VERMILLION} <= colors_of(tmp_path / "curves.png")
    compare_curves({"first": runs["first"]}, tmp_path / "one.png")
    assert VERMILLION not in colors_of(tmp_path / "one.png")


def colors_of(path):
    with Image.open(path) as picture:
        return {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}


@pytest.mark.parametrize("metrics", [[], [{"step": 4, "discovery/corloc": 0.1}]], ids=["no line", "no line of losses"])
def test_a_run_without_a_curve_yet_has_a_picture_that_says_so(figures, metrics, tmp_path):
    save_curves(metrics, tmp_path / "one.png", log_centroids=3.0)
    compare_curves({"a": metrics, "b": metrics}, tmp_path / "two.png")
    assert [[axis.get_title() for axis in figure.axes] for figure in figures] == [["no line of losses yet"]] * 2


def test_a_quantity_has_one_colour_in_the_curves_of_every_run(figures):
    for names in (("agreement", "feature_std"), ("attention_share", "mode_similarity", "agreement", "feature_std")):
        lines = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 9)]
        save_curves(lines, Path("x.png"), log_centroids=3.0)
    few, many = (
        {line.get_label(): line.get_color() for axis in figure.axes for line in axis.lines} for figure in figures
    )
    assert len(few) == 2
    assert few.items() <= many.items()


def test_the_runs_are_named_above_their_curves(figures):
    runs = {name: [{"step": step, "loss": 1 / step, "intra": 1.0} for step in range(1, 9)] for name in ("a", "b")}
    compare_curves(runs, Path("x.png"), columns=1)
    (figure,) = figures
    renderer = drawn(figure)
    (legend,) = figure.legends
    assert legend.get_window_extent(renderer).y0 >= max(axis.get_tightbbox(renderer).y1 for axis in figure.axes)
