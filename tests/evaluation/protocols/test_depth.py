"""Depth by a linear layer: features that are the depth, features that say nothing, and data of which a number means nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import DepthConfig, DepthSourceConfig
from flsl_jax.config.task_checks import check_task, task_advice
from flsl_jax.data.images.decode import RGB
from flsl_jax.data.truth.depths import open_depths
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.depth import evaluate, open_data
from tests.mask_encoders import NoiseEncoder

SETTINGS = DepthConfig(
    train=DepthSourceConfig(name="scenes", count=24, scene_size=64),
    val=DepthSourceConfig(name="scenes", count=8, scene_size=64, split="val"),
    size=64,
    fit="square",
    crop="none",
    batch_size=8,
    steps=200,
)


class _DepthEncoder:
    """Tokens are functions of the mean depth of their patch, of images that these sources have."""

    name, patch_size, image_size, blank, inv_temp = "depths", 8, 64, (0.0, 0.0, 0.0), None
    decoding = RGB

    def __init__(self) -> None:
        self._tokens = {}
        for source in map(open_depths, (SETTINGS.train, SETTINGS.val)):
            for record in (source[index] for index in range(len(source))):
                mean = record.mask.reshape(8, 8, 8, 8).mean(axis=(1, 3))
                tokens = np.stack([mean, mean**2, np.log(mean), 1 / mean, np.cos(2 * mean)], axis=-1)
                self._tokens[record.image.tobytes()] = tokens.astype(np.float32)

    def tokens(self, images):
        return np.stack([self._tokens[np.asarray(image).tobytes()] for image in images])


def test_features_that_are_the_depth_lose_only_edges_and_noise_is_no_better_than_the_mean() -> None:
    scores = evaluate(_DepthEncoder(), SETTINGS, batch_size=8)
    assert list(scores.metrics) == ["rmse", "absrel", "log10", "delta1", "delta2", "delta3"]
    layer, constant = scores.rows
    assert {name: layer[name] for name in scores.metrics} == scores.metrics
    assert scores.metrics["rmse"] < 0.55 * constant["rmse"]
    assert scores.metrics["absrel"] < 0.11
    noise = evaluate(NoiseEncoder(), SETTINGS, batch_size=8)
    assert noise.metrics["rmse"] > 0.95 * noise.rows[1]["rmse"]
    assert scores.judged == {"images_judged": 8, "judged_share": 1.0}


def _folder(root: Path, depths: list[np.ndarray], *, size: tuple[int, int] = (64, 64)) -> DepthSourceConfig:
    for number, depth in enumerate(depths):
        for folder, pixels in (
            ("i", np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)),
            ("d", depth),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return DepthSourceConfig(images=str(root / "i"), depths=str(root / "d"))


def _plane(low: int, high: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.linspace(low, high, size[0] * size[1]).reshape(size).astype(np.uint16)


def test_nyu_is_judged_in_its_crop_at_its_own_size(tmp_path: Path) -> None:
    """Outside the crop depths are wrong by 5 m, which no number shows."""
    size = (480, 640)
    depth = np.full(size, 9000, np.uint16)
    depth[45:471, 41:601] = np.where(np.arange(560) < 280, 2000, 2100)
    config = _folder(tmp_path, [depth], size=size)
    settings = DepthConfig(train=config, val=config, steps=1, batch_size=1)
    scores = evaluate(PixelEncoder(patch_size=80, image_size=480), settings, batch_size=1)
    assert scores.judged == {"images_judged": 1, "judged_share": 426 * 560 / (480 * 640)}
    train_mean = scores.rows[1]["rmse"]
    assert train_mean == pytest.approx(abs(depth[10::20, 10::20].mean() / 1000 - 2.05), abs=0.01)


def test_pixels_and_images_without_depth_count_nowhere_and_are_told(tmp_path: Path) -> None:
    half = _plane(1000, 3000)
    half[:, :40] = 0
    config = _folder(tmp_path, [half, np.zeros((64, 64), np.uint16)])
    scores = evaluate(NoiseEncoder(), dataclasses.replace(SETTINGS, train=config, val=config, steps=1), batch_size=2)
    assert scores.judged["images_judged"] == 1
    assert scores.judged["judged_share"] == 24 / 128
    assert [line.split(" of ")[0] for line in scores.warnings] == ["18.8 %", "1"]


@pytest.mark.parametrize(
    ("depths", "changes", "message"),
    [
        ([_plane(20000, 30000)], {}, "depths are from 20 to 30 m, and none is between 0.001 and 10; set depth.max_depth"),
        ([np.zeros((64, 64), np.uint16)], {}, "no depth is above 0"),
        ([np.full((64, 64), 1500, np.uint16)] * 2, {}, "every depth is 1.5 m, which any constant would hit"),
        ([_plane(1000, 3000)], {"fit": "ratio", "crop": "eigen"}, "an image is 64×64, and depth.crop=eigen is of"),
        ([_plane(1000, 3000)], {"size": 60}, "size is 60; expected a multiple of the model's patch of 8 px, such as 64"),
    ],
    ids=str,
)  # fmt: skip
def test_depths_of_which_a_number_means_nothing_are_refused(tmp_path: Path, depths, changes, message: str) -> None:
    config = _folder(tmp_path, depths)
    settings = dataclasses.replace(SETTINGS, val=config, **changes)
    with pytest.raises(UserError, match=message):
        open_data(settings, patch_size=8, image_size=64)


def test_values_that_do_not_go_together_are_refused_and_the_same_images_told() -> None:
    with pytest.raises(UserError, match=r"--depth\.min_depth is 12\.0; expected less than --depth\.max_depth, 10\.0"):
        check_task(DepthConfig(min_depth=12.0), path="--depth")
    with pytest.raises(UserError, match=r"--depth\.fit=crop changes them; set --depth\.fit to ratio"):
        check_task(DepthConfig(fit="crop"), path="--depth")
    same = dataclasses.replace(SETTINGS, train=SETTINGS.val)
    assert "are the same images" in task_advice(same, path="--depth")[0]
    assert task_advice(SETTINGS, path="--depth") == []
