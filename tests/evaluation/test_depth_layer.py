"""The layer from tokens to depth: its loss by hand, its predictions by another library, and what it can learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.config import DepthConfig, DepthSourceConfig
from flsl_jax.data.truth.depths import open_depths
from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.evaluation.depth_layer import DepthLayer, TrainDepths, scale_invariant_loss, train_layer
from flsl_jax.evaluation.encoder import PixelEncoder

SETTINGS = DepthConfig(
    train=DepthSourceConfig(name="scenes", count=7, scene_size=32),
    size=32,
    crop="none",
    fit="square",
    batch_size=3,
    steps=6,
)


def _examples(**keys) -> TrainDepths:
    settings = dataclasses.replace(SETTINGS, **keys)
    fit = MaskFit(how="square", size=32, patch_size=8)
    encoder = PixelEncoder(patch_size=8, image_size=32)
    return TrainDepths(open_depths(settings.train), encoder, fit, settings=settings, batch_size=4)


def test_the_loss_is_the_variance_and_a_little_of_the_mean_of_the_logarithms() -> None:
    rng = np.random.default_rng(0)
    found, target = rng.uniform(1, 5, (2, 3, 4)), rng.uniform(1, 5, (2, 3, 4))
    target[0, 0] = 0
    difference = (np.log(found + 1e-3) - np.log(target + 1e-3))[target > 0]
    expected = np.sqrt(difference.var(ddof=1) + 0.15 * difference.mean() ** 2)
    assert float(scale_invariant_loss(jnp.asarray(found), jnp.asarray(target))) == pytest.approx(expected, rel=1e-5)
    assert float(scale_invariant_loss(jnp.asarray(found), jnp.zeros((2, 3, 4)))) == pytest.approx(0, abs=1e-5)


def test_predictions_are_those_of_interpolating_by_another_library() -> None:
    rng = np.random.default_rng(0)
    depths = np.linspace(0.5, 3, 6, dtype=np.float32)
    layer = DepthLayer(rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32), depths)
    tokens = rng.normal(size=(3, 4, 5)).astype(np.float32)
    logits = jax.image.resize(tokens @ layer.weights + layer.bias, (12, 16, 6), "bilinear")
    shares = np.maximum(logits, 0) + 0.1
    expected = jax.image.resize((shares * depths).sum(-1) / shares.sum(-1), (31, 50), "bilinear")
    np.testing.assert_allclose(layer.predict(tokens, height=31, width=50), expected, rtol=1e-5)


def test_targets_are_the_depths_under_the_centres_of_a_finer_grid() -> None:
    train = _examples(max_depth=3.0)
    depth = open_depths(SETTINGS.train)[2].mask
    expected = depth[1::2, 1::2]  # 16 places of 2 px: the pixel after the middle of each
    (example,) = train.examples(np.array([2]))
    np.testing.assert_array_equal(example.target, np.where(expected < 3, expected, 0))
    every = np.concatenate([example.target.ravel() for example in train.examples(np.arange(7))])
    assert train.mean_depth == pytest.approx(every[every > 0].mean())


def test_the_seed_alone_decides_and_tokens_computed_anew_train_the_same_layer() -> None:
    layers = [
        train_layer(_examples(**keys), dataclasses.replace(SETTINGS, **keys))
        for keys in ({}, {"keep_gib": 0.0}, {"seed": 1})
    ]
    np.testing.assert_array_equal(layers[0].weights, layers[1].weights)
    assert (layers[0].weights != layers[2].weights).any()
