"""Exact search in blocks against brute force and scikit-learn."""

import numpy as np
import pytest

from flsl_jax.evaluation.nearest import Bank


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    features = rng.standard_normal(shape, np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


@pytest.mark.parametrize(("query_block", "bank_block", "k"), [(64, 200, 9), (7, 33, 9), (1, 20, 1), (50, 3, 1000)])
def test_blocks_find_what_brute_force_finds(query_block: int, bank_block: int, k: int) -> None:
    rng = np.random.default_rng(1)
    queries, bank = _unit(rng, 50, 4), _unit(rng, 100, 4)
    bank[40:] = bank[:60]  # equally near rows in different blocks: the first one counts
    cosines, indices = map(np.array, Bank(bank, block=bank_block).nearest(queries, k=k, block=query_block))
    products = (queries[:, None] * bank[None]).sum(axis=-1)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(products, expected, axis=1), atol=1e-6)


def test_neighbours_are_those_of_sklearn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    queries, bank = _unit(rng, 100, 6), _unit(rng, 400, 6)
    model = neighbors.NearestNeighbors(n_neighbors=30, algorithm="brute", metric="cosine").fit(bank)
    np.testing.assert_array_equal(Bank(bank).nearest(queries, k=30)[1], model.kneighbors(queries)[1])
