"""Mean-shift clusters against plain loops, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.evaluation.mode_clusters import connected_regions, mode_clusters


def _clusters_reference(tokens, *, inv_temp, similarity):
    """Eq. 4 token by token in float64, then flood fill over the pairs that are similar enough."""
    rows = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    modes = []
    for row in rows:
        weights = np.exp(inv_temp * np.sqrt(len(row)) * (rows @ row))
        mode = (weights[:, None] * rows).sum(axis=0) / weights.sum()
        modes.append(mode / np.linalg.norm(mode))
    return _flood([[j for j in range(len(rows)) if modes[i] @ modes[j] >= similarity] for i in range(len(rows))])


def _flood(neighbours):
    """The sets of indices that neighbours connect, as a list of names that are each set's smallest index."""
    names = [None] * len(neighbours)
    for start in range(len(neighbours)):
        waiting = [start] if names[start] is None else []
        while waiting:
            index = waiting.pop()
            if names[index] is None:
                names[index] = start
                waiting.extend(neighbours[index])
    return np.array(names)


def _same_partition(found, expected):
    np.testing.assert_array_equal(found[:, None] == found[None], expected[:, None] == expected[None])


@pytest.mark.parametrize(("inv_temp", "similarity"), [(0.5, 0.95), (1.0, 0.8), (2.0, 0.9), (4.0, 0.3)])
def test_clusters_are_those_of_plain_loops(inv_temp, similarity):
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((4, 1, 8)) + 0.4 * rng.standard_normal((4, 6, 8))
    found = mode_clusters(tokens.astype(np.float32), inv_temp=inv_temp, similarity=similarity)
    _same_partition(found.reshape(-1), _clusters_reference(tokens, inv_temp=inv_temp, similarity=similarity))
    assert found.shape == (4, 6)
    assert found.dtype == np.int32


def test_clusters_of_two_directions_by_hand():
    tokens = np.zeros((2, 3, 4), np.float32)
    tokens[..., 0] = 1
    tokens[0, 1] = [0, 3, 0, 0]  # of another length: tokens are normalised
    tokens[1, 2] = [0, 1, 0, 0]
    # τ = 2: a token of the four has weights e² (4 ×) and 1 (2 ×), a mode of slope 0.068; one of the two, of slope 0.27.
    found = mode_clusters(tokens, inv_temp=1.0, similarity=0.9)
    np.testing.assert_array_equal(found, [[0, 1, 0], [0, 0, 1]])
    assert (mode_clusters(tokens, inv_temp=0.0, similarity=0.999) == 0).all()  # every mode is the mean


def test_a_chain_of_similar_modes_is_one_cluster():
    angles = np.deg2rad(np.arange(0, 100, 10))
    tokens = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None].astype(np.float32)
    # At a large τ a token is its own mode: 10° apart are linked, the ends, 90° apart, through the others.
    assert mode_clusters(tokens, inv_temp=1e4, similarity=0.98).max() == 0
    assert mode_clusters(tokens, inv_temp=1e4, similarity=0.99).max() == 9


def test_regions_by_hand():
    clusters = np.array([[0, 0, 1], [0, 1, 0], [2, 1, 1]], np.int32)
    np.testing.assert_array_equal(connected_regions(clusters), [[0, 0, 2], [0, 1, 3], [4, 1, 1]])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_regions_are_those_of_a_flood_fill(seed):
    clusters = np.random.default_rng(seed).integers(0, 3, (5, 6), dtype=np.int32)

    def neighbours(row, column):
        for y, x in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= y < 5 and 0 <= x < 6 and clusters[y, x] == clusters[row, column]:
                yield y * 6 + x

    found = connected_regions(clusters).reshape(-1)
    _same_partition(found, _flood([list(neighbours(*divmod(index, 6))) for index in range(30)]))
    counts = np.bincount(found)
    assert (np.diff(counts) <= 0).all()
