"""Teacher targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import objective


def logits(shape=(2, 10, 4), seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_softmax_targets_subtract_the_center_before_the_temperature():
    values, center = logits(), np.array([0.5, 0.0, -1.0, 2.0])
    with jax.enable_x64(True):
        probs = objective.softmax_targets(jnp.asarray(values), temp=0.3, center=jnp.asarray(center))
    powers = np.exp((values - center) / 0.3)
    np.testing.assert_allclose(probs, powers / powers.sum(-1, keepdims=True), rtol=1e-10)


def test_one_iteration_is_a_softmax_along_the_batch_with_rows_that_sum_to_one():
    values = logits().reshape(-1, 4)
    with jax.enable_x64(True):
        probs = objective.sinkhorn_targets(jnp.asarray(values), temp=0.5, iterations=1)
    along_batch = np.exp(values / 0.5) / np.exp(values / 0.5).sum(0)
    np.testing.assert_allclose(probs, along_batch / along_batch.sum(1, keepdims=True), rtol=1e-10)


def test_iterations_balance_the_centroids_and_rows_sum_to_one():
    probs = np.asarray(objective.sinkhorn_targets(jnp.asarray(logits(), jnp.float32), temp=0.5, iterations=50))
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(probs.reshape(-1, 4).mean(0), 0.25, rtol=1e-3)


def test_sinkhorn_does_not_overflow():
    probs = objective.sinkhorn_targets(jnp.asarray(logits() * 1e3, jnp.float32), temp=0.01, iterations=3)
    assert np.isfinite(probs).all()


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="expected at least 1"):
        objective.sinkhorn_targets(jnp.ones((2, 3)), temp=1.0, iterations=0)


def test_the_center_is_the_running_mean_over_all_rows():
    values = logits()
    center = objective.updated_center(jnp.ones(4), jnp.asarray(values, jnp.float32), momentum=0.9)
    np.testing.assert_allclose(center, 0.9 + 0.1 * values.mean((0, 1)), rtol=1e-5)
