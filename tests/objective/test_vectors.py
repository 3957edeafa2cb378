"""Lengths of normalised vectors, and gradients where there is no direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.objective import l2_normalise


@pytest.mark.parametrize("axis", [0, -1])
def test_vectors_have_length_one_along_the_axis_and_keep_their_direction(axis):
    vectors = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    expected = vectors / np.linalg.norm(vectors.astype(np.float64), axis=axis, keepdims=True)
    np.testing.assert_allclose(l2_normalise(jnp.asarray(vectors), axis=axis), expected, rtol=1e-5)


def test_the_zero_vector_stays_and_has_a_finite_gradient():
    value, gradient = jax.value_and_grad(lambda x: l2_normalise(x).sum())(jnp.zeros(4))
    assert value == 0
    assert np.isfinite(gradient).all()


def test_a_short_vector_is_divided_by_no_less_than_the_bound():
    np.testing.assert_allclose(l2_normalise(jnp.asarray([1e-13, 0.0])), [0.1, 0.0], rtol=1e-5)
