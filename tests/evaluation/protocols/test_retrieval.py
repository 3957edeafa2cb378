"""Dense retrieval: read-out against brute force, the memory's sampling, and scores of known features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import MaskedSourceConfig, RetrievalConfig
from flsl_jax.data.truth.mask_fit import MaskFit, class_shares
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.retrieval import build_memory, evaluate, patch_frequencies, read_out
from tests.mask_encoders import PATCH, SIZE, NoiseEncoder, PerfectEncoder, best_miou, scenes, stripes

TRAIN, VAL = scenes(24, split="train"), scenes(8, split="val")
SETTINGS = RetrievalConfig(train=TRAIN, val=VAL, size=SIZE)
FIT = MaskFit(how="square", size=SIZE, patch_size=PATCH)


def _memory(**changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    encoder = PixelEncoder(patch_size=PATCH, image_size=SIZE)
    return build_memory(open_masked(settings.train), encoder, FIT, settings=settings, batch_size=8)


@pytest.mark.parametrize("block", [16, 500, 16384])
def test_the_read_out_is_that_of_brute_force(block: int) -> None:
    rng = np.random.default_rng(0)
    queries, bank = rng.standard_normal((40, 6)), rng.standard_normal((500, 6))
    queries, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, bank))
    labels = rng.dirichlet(np.ones(5), 500)
    found = Bank.place([bank.astype(np.float32)], block=block).nearest(queries.astype(np.float32), k=30)
    scores = read_out(*found, labels.astype(np.float32), temp=0.02)
    for query, score in zip(queries, np.array(scores)):
        cosines = bank @ query
        nearest = np.argsort(-cosines)[:30]
        weights = np.exp(cosines[nearest] / 0.02)
        np.testing.assert_allclose(score, weights @ labels[nearest] / weights.sum(), atol=1e-4)


def test_the_memory_holds_every_patch_with_the_shares_of_its_known_pixels() -> None:
    memory = _memory(train=scenes(5, split="train", ignore=(0,)))
    source = open_masked(scenes(5, split="train", ignore=(0,)))
    shares = np.concatenate(
        [class_shares(source[i].mask, patch_size=PATCH, num_classes=8).reshape(-1, 8) for i in range(5)]
    )
    known = shares.sum(axis=1) > 0
    np.testing.assert_allclose(memory.labels, shares[known] / shares[known].sum(axis=1, keepdims=True), rtol=1e-6)
    assert memory.features.shape == (known.sum(), 3 * PATCH**2)
    np.testing.assert_allclose(np.linalg.norm(memory.features, axis=1), 1, rtol=1e-5)


def test_frequencies_sum_the_patches_of_each_class_in_a_patch() -> None:
    shares = np.float32([[1, 0, 0], [0.5, 0.5, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(patch_frequencies(shares), [3, 4, 3, 1])


@pytest.mark.parametrize("sampling", ["balanced", "uniform"])
def test_a_bounded_memory_takes_as_many_patches_of_every_image(sampling: str) -> None:
    first, again, other = (_memory(memory=250, sampling=sampling, seed=seed) for seed in (0, 0, 1))
    assert len(first.features) == 24 * (250 // 24)
    np.testing.assert_array_equal(first.features, again.features)
    assert (first.labels != other.labels).any()


def test_balanced_sampling_favours_rare_classes() -> None:
    background = {
        sampling: np.mean([_memory(memory=240, sampling=sampling, seed=seed).labels[:, 0].mean() for seed in range(4)])
        for sampling in ("balanced", "uniform")
    }
    whole = _memory().labels[:, 0].mean()
    assert background["balanced"] < whole - 0.07
    assert background["uniform"] == pytest.approx(whole, abs=0.05)


def test_features_that_tell_the_class_score_one(tmp_path: Path) -> None:
    train, val = stripes(tmp_path / "train", 4), stripes(tmp_path / "val", 3)
    encoder = PixelEncoder(patch_size=PATCH, image_size=SIZE)
    scores = evaluate(encoder, dataclasses.replace(SETTINGS, train=train, val=val), batch_size=2)
    assert scores.metrics == {"miou": 1.0, "macc": 1.0, "aacc": 1.0}
    assert len(scores.rows) == 4


def test_features_that_are_the_masks_lose_only_edges_and_noise_scores_chance() -> None:
    perfect = evaluate(PerfectEncoder(TRAIN, VAL), SETTINGS, batch_size=8)
    assert perfect.metrics["miou"] > best_miou(VAL) - 0.03
    assert next(iter(perfect.metrics)) == "miou"
    noise = evaluate(NoiseEncoder(), SETTINGS, batch_size=8)
    # Noise says nothing: nearly every pixel is read as the most frequent class, the background.
    source = open_masked(VAL)
    background = np.mean([(source[i].mask == 0).mean() for i in range(8)])
    assert noise.metrics["miou"] < 1.2 * background / len(noise.rows)
    assert noise.metrics["aacc"] == pytest.approx(background, abs=0.1)


def test_hungarian_matching_counts_absent_classes_as_zero() -> None:
    val = scenes(2, split="val")
    settings = dataclasses.replace(SETTINGS, val=val)
    encoder = PerfectEncoder(TRAIN, val)
    identity = evaluate(encoder, settings, batch_size=2)
    hungarian = evaluate(encoder, dataclasses.replace(settings, matching="hungarian"), batch_size=2)
    present = np.unique(np.concatenate([open_masked(val)[i].mask.ravel() for i in range(2)])).size
    assert present < 9
    assert len(hungarian.rows) == 9
    assert hungarian.metrics["miou"] <= identity.metrics["miou"] * present / 9 + 1e-9


def test_masks_that_ignore_everything_are_refused(tmp_path: Path) -> None:
    for folder, pixels in (("i", np.zeros((16, 16, 3), np.uint8)), ("m", np.full((16, 16), 255, np.uint8))):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "x.png")
    empty = MaskedSourceConfig(images=str(tmp_path / "i"), masks=str(tmp_path / "m"))
    with pytest.raises(UserError, match="every pixel is ignored"):
        evaluate(NoiseEncoder(), dataclasses.replace(SETTINGS, train=empty, val=empty), batch_size=2)
