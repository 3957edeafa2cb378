"""Pictures of the curves of one run and of several."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.pictures.curves import compare_curves, save_curves

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BLUE, VERMILLION = (0, 114, 178), (213, 94, 0)


@pytest.mark.parametrize("names", [("loss",), ("loss", "mean_entropy", "agreement", "knn_any", "knn_pixels_any")])
def test_every_line_is_drawn(tmp_path, names):
    lines = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 9)]
    save_curves(lines, tmp_path / "curves.png", log_centroids=3.0)
    assert BLUE in colors_of(tmp_path / "curves.png")


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
