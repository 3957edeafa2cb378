"""The pictures that a run leaves: every image and every network is in them."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.pictures.strips import save_clusters, save_features


@pytest.mark.parametrize("save", [save_features, save_clusters])
def test_every_image_and_every_set_is_in_the_picture(tmp_path, save):
    rng = np.random.default_rng(0)
    images = np.full((3, 32, 32, 3), (10, 200, 90), np.uint8)
    heights = []
    for names in (("trained",), ("untrained", "trained")):
        save(images, {name: rng.standard_normal((3, 4, 4, 8)).astype(np.float32) for name in names}, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert (pixels == (10, 200, 90)).all(-1).mean() > 0.4 / (1 + len(names))
        heights.append(len(pixels))
    assert heights[1] > 1.3 * heights[0]


def test_tokens_that_are_alike_are_one_colour_in_the_clusters(tmp_path):
    images = np.full((1, 32, 32, 3), 120, np.uint8)
    tokens = np.zeros((1, 4, 4, 8), np.float32)
    tokens[:, :, :2, 0], tokens[:, :, 2:, 1] = 5.0, 5.0
    save_clusters(images, {"trained": tokens}, tmp_path / "clusters.png")
    with Image.open(tmp_path / "clusters.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    large = colours[counts > 0.05 * len(pixels)]
    assert sum(np.ptp(colour.astype(int)) > 20 for colour in large) == 2
