"""Normalisation against its formula in float64."""

import jax.numpy as jnp
import numpy as np

from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    levels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3))
    expected = (levels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    ours = normalise(jnp.asarray(levels, jnp.float32), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    np.testing.assert_allclose(ours, expected, atol=1e-6)
