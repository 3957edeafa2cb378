"""Length 1 on the host and on devices; zeros stay zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.evaluation.unit_vectors import unit_vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_vectors_have_length_one_and_zeros_stay(dtype: type) -> None:
    vectors = np.array([[[3, 4], [0, 0]], [[-5e3, 12e3], [1e-3, 0]]], dtype)
    expected = np.array([[[0.6, 0.8], [0, 0]], [[-5 / 13, 12 / 13], [1, 0]]])
    found = unit_vectors(vectors)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_devices_give_what_the_host_gives_inside_jit_too() -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    for function in (unit_vectors, jax.jit(unit_vectors)):
        found = function(jnp.asarray(vectors))
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, unit_vectors(vectors), rtol=1e-6)
