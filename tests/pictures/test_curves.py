"""The picture of a run's curves."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.pictures.curves import save_curves

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("names", [("loss",), ("loss", "mean_entropy", "agreement", "knn_any", "knn_pixels_any")])
def test_every_line_is_drawn(tmp_path, names):
    lines = [{"step": step} | dict.fromkeys(names, 1 / step) for step in range(1, 9)]
    save_curves(lines, tmp_path / "curves.png", log_centroids=3.0)
    with Image.open(tmp_path / "curves.png") as picture:
        colors = {tuple(pixel) for pixel in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert (0, 114, 178) in colors
