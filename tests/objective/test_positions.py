"""Positives by place, against torch's grid_sample and by properties."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.objective import query_positions, sample_tokens


def tokens_of(grid, *, width=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((grid[0] * grid[1], width)))


def test_a_view_that_is_the_whole_teacher_view_gets_its_own_tokens():
    tokens = tokens_of((3, 4))
    indices = jnp.asarray([0, 5, 11, 7])
    places = query_positions(indices, jnp.asarray([0.0, 0.0, 1.0, 1.0]), grid=(3, 4))
    np.testing.assert_allclose(sample_tokens(tokens, places, grid=(3, 4)), tokens[indices], atol=1e-6)


def test_the_centre_of_a_crop_lies_where_the_box_says():
    box = jnp.asarray([0.25, 0.5, 0.75, 1.0])
    places = query_positions(jnp.asarray([4]), box, grid=(3, 3))
    np.testing.assert_allclose(places, [[0.5, 0.75]])


@settings(deadline=None)  # the first call imports torch
@given(y=st.floats(0, 1), x=st.floats(0, 1))
def test_samples_are_those_of_grid_sample(y, x):
    torch = pytest.importorskip("torch")
    tokens = tokens_of((3, 4))
    planes = torch.as_tensor(np.array(tokens.T.reshape(1, 5, 3, 4), np.float64))
    place = torch.tensor([[[[2 * x - 1, 2 * y - 1]]]], dtype=torch.float64)
    expected = torch.nn.functional.grid_sample(planes, place, align_corners=False, padding_mode="border")[0, :, 0, 0]
    ours = sample_tokens(tokens, jnp.asarray([[y, x]]), grid=(3, 4))[0]
    np.testing.assert_allclose(ours, expected.numpy(), atol=2e-6)


def test_tokens_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="there are 12 tokens; a grid of 4×4 has 16"):
        sample_tokens(tokens_of((3, 4)), jnp.zeros((1, 2)), grid=(4, 4))
