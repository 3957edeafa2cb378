"""Key-point correspondence: PCK worked out by hand, interpolation against another library, and scenes of known places."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from flsl_jax.config import CorrespondenceConfig, KeypointSourceConfig
from flsl_jax.data.images.decode import RGB
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.keypoint_fit import KeypointFit
from flsl_jax.data.truth.keypoints import open_keypoints
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.correspondence import evaluate, open_data
from tests.mask_encoders import NoiseEncoder
from tests.spair_layout import two_categories, write_image, write_pair

POINTS = PixelEncoder(patch_size=1, image_size=32)


def _settings(root: Path, **changes) -> CorrespondenceConfig:
    return CorrespondenceConfig(data=KeypointSourceConfig(root=str(root)), size=32, **changes)


@pytest.mark.parametrize("search", ["patches", "pixels"])
@pytest.mark.parametrize("fit", ["square", "pad"])
def test_pck_is_that_worked_out_by_hand(tmp_path: Path, search: str, fit: str) -> None:
    """Three of four points of the one pair and one of one of the other: 4/5 of the points, (3/4 + 1) / 2 of the images."""
    scores = evaluate(POINTS, _settings(two_categories(tmp_path), search=search, fit=fit), batch_size=3)
    assert scores.metrics == {"pck_point": 0.8, "pck_image": 0.875}
    assert list(scores.rows) == [
        {"category": "cat", "pairs": 1, "points": 4, "pck_point": 0.75, "pck_image": 0.75},
        {"category": "cow", "pairs": 1, "points": 1, "pck_point": 1.0, "pck_image": 1.0},
    ]
    assert scores.images == 4
    assert (scores.judged["pairs"], scores.judged["points"], scores.judged["points_in_reach"]) == (2, 5, 1)


def test_the_distance_that_counts_is_of_the_longer_side_of_the_box(tmp_path: Path) -> None:
    """The fourth point lies 4 px beside its place, and the box is 20 px long."""
    settings = _settings(two_categories(tmp_path), search="patches")
    for alpha, expected in ((0.199, 0.8), (0.2, 1.0)):
        scores = evaluate(POINTS, dataclasses.replace(settings, alpha=alpha), batch_size=4)
        assert scores.metrics["pck_point"] == expected


def test_pixels_are_found_as_by_interpolating_whole_feature_maps(tmp_path: Path) -> None:
    """Wide and tall images; the maps are interpolated by jax.image, and every pixel is compared."""
    rng = np.random.default_rng(0)
    images = [np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)[:30, :41] for _ in range(2)]
    for name, pixels in zip(("a.jpg", "b.jpg"), images):
        write_image(tmp_path, "cat", name, pixels)
    points = rng.integers(0, 30, (12, 2))
    pair = {"images": ("a.jpg", "b.jpg"), "points": (points.tolist(), points.tolist()), "size": (41, 30)}
    write_pair(tmp_path, 1, category="cat", box=(0, 0, 40, 20), **pair)
    encoder, fit = PixelEncoder(patch_size=8, image_size=32), KeypointFit(how="square", size=32, patch_size=8)
    maps = [np.asarray(encoder.tokens(fit.image(pixels)[None])[0]) for pixels in images]
    maps = [np.asarray(jax.image.resize(own, (30, 41, own.shape[-1]), "bilinear"), np.float64) for own in maps]
    maps = [own / np.linalg.norm(own, axis=-1, keepdims=True) for own in maps]
    right = 0
    for x, y in points:
        row, column = np.unravel_index((maps[1] @ maps[0][y, x]).argmax(), (30, 41))
        right += np.hypot(column - x, row - y) <= 0.3 * 40
    scores = evaluate(encoder, _settings(tmp_path, alpha=0.3), batch_size=2)
    assert 0 < right < 12
    assert scores.metrics["pck_point"] == right / 12


SCENES = KeypointSourceConfig(name="scenes", count=12, scene_size=64, split="val")


class _PlaceEncoder:
    """Tokens are a class and the place (u, v, 1/2) in an object of it, of scenes that this source has; 0 elsewhere."""

    name, patch_size, image_size, blank, inv_temp = "places", 2, 64, (0.0, 0.0, 0.0), None
    decoding = RGB

    def __init__(self) -> None:
        scenes = Scenes(count=SCENES.count, size=SCENES.scene_size, split=SCENES.split)
        source, self._tokens = open_keypoints(SCENES), {}
        grid = np.stack(np.meshgrid(*[np.linspace(-0.6, 0.6, 5)] * 2), axis=-1).reshape(-1, 2)
        middles = np.stack([*np.meshgrid(*[np.arange(32) * 2 + 0.5] * 2), np.ones((32, 32))], axis=-1)
        for index in range(len(scenes)):
            tokens, masks = np.zeros((32, 32, 8, 3), np.float32), scenes.masks(index)
            for item in scenes.keypoints(index):
                seen = ~np.isnan(item.points).any(axis=1)
                pixels = np.concatenate([item.points[seen], np.ones((seen.sum(), 1))], axis=1)
                to_place, *_ = np.linalg.lstsq(
                    pixels, np.concatenate([grid[seen], np.full((seen.sum(), 1), 0.5)], axis=1)
                )
                column, row = item.points[seen][0].round().astype(int)
                own = masks.instances[::2, ::2] == masks.instances[row, column]
                tokens[own, item.label] = (middles @ to_place)[own]
            self._tokens[source.image(scenes.name_of(index)).tobytes()] = tokens.reshape(32, 32, -1)

    def tokens(self, images):
        return np.stack([self._tokens[np.asarray(image).tobytes()] for image in images])


@pytest.mark.parametrize("search", ["patches", "pixels"])
def test_features_that_tell_the_place_find_it_in_other_scenes_and_noise_does_not(search: str) -> None:
    settings = CorrespondenceConfig(data=SCENES, size=64, search=search)
    scores = evaluate(_PlaceEncoder(), settings, batch_size=4)
    assert scores.metrics["pck_point"] > 0.95
    noise = evaluate(NoiseEncoder(), settings, batch_size=4)
    assert noise.metrics["pck_point"] < 0.1
    assert noise.judged["chance"] < 0.02


def test_a_size_that_the_patch_does_not_divide_is_refused_with_the_nearest(tmp_path: Path) -> None:
    settings = dataclasses.replace(_settings(two_categories(tmp_path)), size=768)
    with pytest.raises(UserError, match=r"correspondence\.size is 768; .*patch of 14 px, such as 770"):
        open_data(settings, patch_size=14, image_size=224)


def test_what_would_be_hit_by_anything_or_by_nothing_is_refused(tmp_path: Path) -> None:
    settings = _settings(two_categories(tmp_path))
    whole = dataclasses.replace(settings, alpha=1.0, data=dataclasses.replace(settings.data, categories=("cow",)))
    write_pair(
        tmp_path,
        3,
        category="cow",
        images=("a.jpg", "b.jpg"),
        points=([[0, 0]], [[1, 1]]),
        box=(0, 0, 90, 9),
        size=(32, 32),
    )
    assert "chance" in open_data(settings, patch_size=1, image_size=32).judged.facts
    lone = dataclasses.replace(whole, data=dataclasses.replace(whole.data, layout="", limit=0))
    (tmp_path / "PairAnnotation/test/000002-a-b:cow.json").unlink()
    with pytest.raises(UserError, match=r"any features would score 1; lower correspondence\.alpha"):
        open_data(lone, patch_size=1, image_size=32)
    cats = dataclasses.replace(settings.data, layout="", categories=("cat",))
    # Patches of 16 px have their centres at 7.5 and 23.5; no point of the cats is within 0.2 px of one.
    coarse = dataclasses.replace(settings, alpha=0.01, search="patches", data=cats)
    with pytest.raises(UserError, match=r"no centre of a patch is near enough .* raise correspondence\.size"):
        open_data(coarse, patch_size=16, image_size=32)
