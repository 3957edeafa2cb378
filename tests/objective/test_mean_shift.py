"""Mean-shift."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import objective
from tests.objective import reference


@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("inv_temp", [0.0, 0.005, 1.5])
def test_equals_the_reference_in_float64(cross, inv_temp):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, 7, 5))
    queries = rng.normal(size=(2, 3, 5)) if cross else tokens[:, :3]
    with jax.enable_x64(True):
        modes = objective.mean_shift(jnp.asarray(queries), jnp.asarray(tokens), inv_temp=inv_temp)
    np.testing.assert_allclose(modes, reference.mean_shift(queries, tokens, inv_temp), rtol=1e-10, atol=1e-12)


def test_modes_as_queries_equal_the_reference_applied_twice():
    rng = np.random.default_rng(2)
    student, teacher = rng.normal(size=(2, 1, 6, 4))
    with jax.enable_x64(True):
        modes = objective.mean_shift(jnp.asarray(student), jnp.asarray(student), inv_temp=0.4)
        positives = objective.mean_shift(modes, jnp.asarray(teacher), inv_temp=0.8)
    expected = reference.mean_shift(reference.mean_shift(student, student, 0.4), teacher, 0.8)
    np.testing.assert_allclose(positives, expected, rtol=1e-10)


def test_identical_tokens_are_their_own_mode():
    tokens = jnp.tile(jnp.asarray([1.0, -2.0, 3.0]), (2, 5, 1))
    np.testing.assert_allclose(objective.mean_shift(tokens[:, :2], tokens, inv_temp=3.0), tokens[:, :2], rtol=1e-6)


def test_a_large_inverse_temperature_picks_one_token_and_zero_the_mean():
    tokens = jax.random.normal(jax.random.key(0), (1, 6, 8))
    tokens = tokens / jnp.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(objective.mean_shift(tokens, tokens, inv_temp=1e4), tokens, atol=1e-6)
    mean = jnp.broadcast_to(tokens.mean(1, keepdims=True), tokens.shape)
    np.testing.assert_allclose(objective.mean_shift(tokens, tokens, inv_temp=0.0), mean, atol=1e-6)
