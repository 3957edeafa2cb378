"""Query windows."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from flsl_jax import objective

_grids = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)).filter(lambda g: g[2] <= min(g[:2]))


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(_grids, st.integers(0, 2**31))
def test_one_query_for_each_window_of_a_corner(grid_and_window, seed):
    height, width, window = grid_and_window
    indices = np.asarray(objective.sample_queries(jax.random.key(seed), grid=(height, width), window=window))
    rows, columns = height // window, width // window
    assert indices.shape == (rows * columns,) == (objective.num_queries((height, width), window=window),)
    y, x = indices // width, indices % width
    fits = []
    for top in {0, height - rows * window}:
        for left in {0, width - columns * window}:
            in_rows = (y - top) // window == np.repeat(np.arange(rows), columns)
            in_columns = (x - left) // window == np.tile(np.arange(columns), rows)
            fits.append(in_rows.all() and in_columns.all())
    assert any(fits)


def test_the_fixed_choice_is_the_first_token_of_each_window_in_a_corner_that_is_drawn():
    """The release's 14 × 14 tokens and windows of 3: one of four sets of queries, as often as each other."""
    keys = jax.random.split(jax.random.key(0), 400)
    draw = lambda key: objective.sample_queries(key, grid=(14, 14), window=3, random=False)  # noqa: E731
    sets, counts = np.unique(jax.vmap(draw)(keys), axis=0, return_counts=True)
    windows = np.arange(0, 12, 3)
    expected = [((top + windows)[:, None] * 14 + left + windows).ravel() for top in (0, 2) for left in (0, 2)]
    np.testing.assert_array_equal(sets, expected)
    assert counts.min() > 60


def test_both_choices_take_the_same_corner():
    for seed in range(8):
        fixed, drawn = (
            np.asarray(objective.sample_queries(jax.random.key(seed), grid=(5, 7), window=3, random=random))
            for random in (False, True)
        )
        ahead_y, ahead_x = drawn // 7 - fixed // 7, drawn % 7 - fixed % 7
        assert ((ahead_y >= 0) & (ahead_y < 3) & (ahead_x >= 0) & (ahead_x < 3)).all()


def test_a_window_that_divides_the_grid_leaves_nothing_to_draw_without_random():
    for seed in range(4):
        indices = objective.sample_queries(jax.random.key(seed), grid=(4, 6), window=2, random=False)
        np.testing.assert_array_equal(indices, [0, 2, 4, 12, 14, 16])


def test_the_random_draws_are_those_of_the_first_version():
    expected = [[8, 10, 13, 29, 31, 33], [9, 11, 13, 22, 31, 33], [15, 16, 12, 22, 24, 32], [9, 3, 6, 23, 25, 26]]
    for seed, indices in enumerate(expected):
        np.testing.assert_array_equal(objective.sample_queries(jax.random.key(seed), grid=(5, 7), window=2), indices)


def test_every_token_and_every_corner_is_drawn():
    keys = jax.random.split(jax.random.key(1), 400)
    indices = jax.vmap(lambda key: objective.sample_queries(key, grid=(5, 5), window=2))(keys)
    assert set(np.unique(indices)) == set(range(25))


def test_queries_are_the_tokens_at_the_indices():
    tokens = jnp.arange(2 * 6 * 3.0).reshape(2, 6, 3)
    indices = jnp.asarray([[5, 0], [1, 1]], jnp.int32)
    expected = np.stack([np.asarray(tokens)[b, np.asarray(indices)[b]] for b in range(2)])
    np.testing.assert_array_equal(objective.gather_tokens(tokens, indices), expected)


@pytest.mark.parametrize("window", [0, 4])
def test_a_window_that_does_not_fit_is_refused(window):
    with pytest.raises(ValueError, match="does not fit the 3×5 grid"):
        objective.sample_queries(jax.random.key(0), grid=(3, 5), window=window)
