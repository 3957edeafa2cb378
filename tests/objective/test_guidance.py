"""Guided attention, against the reference in float64 and at its two ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.objective import guided_weights
from tests.objective import reference


@pytest.mark.parametrize("sharpness", [0.5, 30.0, 1e3])
@pytest.mark.parametrize("inv_temp", [0.01, 0.7])
def test_equals_the_reference_in_float64(inv_temp, sharpness):
    rng = np.random.default_rng(3)
    queries, tokens = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 7, 5))
    with jax.enable_x64(True):
        weights = guided_weights(jnp.asarray(queries), jnp.asarray(tokens), inv_temp=inv_temp, sharpness=sharpness)
    expected = reference.guided_weights(queries, tokens, inv_temp, sharpness)
    np.testing.assert_allclose(weights, expected, rtol=1e-10, atol=1e-14)


def test_sharp_it_is_even_over_the_tokens_that_attract_more_than_the_mean():
    tokens = jnp.asarray([[3.0, 0.0], [2.0, 0.5], [0.0, 3.0], [-1.0, 2.0], [-2.0, -2.0]])
    weights = guided_weights(tokens[:1], tokens, inv_temp=0.3, sharpness=1e4)
    np.testing.assert_allclose(weights, [[0.5, 0.5, 0.0, 0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("settings", [{"inv_temp": 0.0, "sharpness": 1e4}, {"inv_temp": 0.5, "sharpness": 0.0}])
def test_without_temperature_or_sharpness_all_tokens_count_alike(settings):
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 4))
    np.testing.assert_allclose(guided_weights(tokens, tokens, **settings), np.full((2, 6, 6), 1 / 6), rtol=1e-4)
