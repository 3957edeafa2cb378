"""Weighted nearest neighbours against brute force and scikit-learn; in blocks, on several devices, in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flsl_jax.evaluation.bank import Bank


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    features = rng.standard_normal(shape, np.float32)
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def _knn_reference(queries: np.ndarray, bank: np.ndarray, labels: np.ndarray, *, k: int, temp: float) -> np.ndarray:
    """Appendix F in float64, one query after another."""
    predictions = []
    for query in queries.astype(np.float64):
        cosine = bank.astype(np.float64) @ query
        nearest = np.argsort(-cosine, kind="stable")[:k]
        votes = np.zeros(labels.max() + 1)
        for index in nearest:
            votes[labels[index]] += np.exp(cosine[index] / temp)
        predictions.append(votes.argmax())
    return np.array(predictions)


def _on(devices: int) -> NamedSharding:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def _classify(
    queries: np.ndarray,
    bank: np.ndarray,
    labels: np.ndarray,
    *,
    k: int,
    temp: float,
    query_block: int = 1024,
    bank_block: int = 16384,
    devices: int = 1,
) -> np.ndarray:
    placed = Bank.place([bank], labels, block=bank_block, sharding=_on(devices))
    votes = placed.vote([queries[:, None]], k=k, temp=temp, num_classes=int(labels.max()) + 1, block=query_block)
    return votes.each[:, 0, 0]


def test_votes_of_a_case_worked_by_hand() -> None:
    angles = np.deg2rad([0, 30, 31, 32, 180])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([0, 1, 1, 1, 2])
    query = np.array([[1, 0]], np.float32)
    # cosines 1, .866, .857, .848, -1. At temperature 1: e¹ = 2.72 for class 0; 2.38 + 2.36 + 2.34 for class 1.
    assert _classify(query, bank, labels, k=4, temp=1.0) == [1]
    # At 0.07, less the largest exponent: 1 for class 0; 0.148 + 0.130 + 0.114 = 0.39 for class 1.
    assert _classify(query, bank, labels, k=4, temp=0.07) == [0]
    assert _classify(query, bank, labels, k=1, temp=1.0) == [0]
    assert _classify(-query, bank, labels, k=1, temp=1.0) == [2]


@pytest.mark.parametrize("k", [1, 7, 140, 1000])
def test_predictions_are_those_of_brute_force(k: int) -> None:
    rng = np.random.default_rng(k)
    queries, bank, labels = _unit(rng, 60, 5), _unit(rng, 300, 5), rng.integers(0, 9, 300)
    found = _classify(queries, bank, labels, k=k, temp=0.07)
    np.testing.assert_array_equal(found, _knn_reference(queries, bank, labels, k=k, temp=0.07))


def test_predictions_are_those_of_sklearn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    queries, bank, labels = _unit(rng, 100, 6), _unit(rng, 400, 6), rng.integers(0, 10, 400)
    classifier = neighbors.KNeighborsClassifier(
        n_neighbors=140, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = classifier.fit(bank.astype(np.float64), labels).predict(queries.astype(np.float64))
    np.testing.assert_array_equal(_classify(queries, bank, labels, k=140, temp=0.07), expected)


@pytest.mark.parametrize(
    ("query_block", "bank_block", "devices"), [(7, 33, 1), (64, 3, 1), (50, 200, 8), (1, 3, 8), (64, 20, 3)]
)
def test_blocks_and_devices_change_no_prediction(query_block: int, bank_block: int, devices: int) -> None:
    rng = np.random.default_rng(1)
    queries, bank, labels = _unit(rng, 50, 4), _unit(rng, 100, 4), rng.integers(0, 5, 100)
    bank[40:] = bank[:60]  # equally near neighbours with different labels, in different blocks and on different devices
    whole = _classify(queries, bank, labels, k=9, temp=0.07)
    split = _classify(
        queries, bank, labels, k=9, temp=0.07, query_block=query_block, bank_block=bank_block, devices=devices
    )
    np.testing.assert_array_equal(split, whole)


def test_a_small_temperature_leaves_the_nearest() -> None:
    rng = np.random.default_rng(2)
    queries, bank, labels = _unit(rng, 40, 4), _unit(rng, 80, 4), rng.integers(0, 5, 80)
    nearest = labels[(queries @ bank.T).argmax(axis=1)]
    np.testing.assert_array_equal(_classify(queries, bank, labels, k=80, temp=1e-6), nearest)


def test_every_device_holds_its_share_of_the_bank_once() -> None:
    rng = np.random.default_rng(3)
    bank, labels = _unit(rng, 101, 6), rng.integers(0, 5, 101)
    placed = Bank.place([bank[:13], bank[13:77], bank[77:]], labels, block=4, sharding=_on(8))
    shards = placed.features.addressable_shards
    assert {shard.device for shard in shards} == set(jax.devices())
    assert {shard.data.shape for shard in shards} == {(4, 4, 6)}
    rows, names = np.asarray(placed.features).reshape(-1, 6), np.asarray(placed.names).reshape(-1)
    np.testing.assert_array_equal(rows[names >= 0], bank)
    np.testing.assert_array_equal(names[names >= 0], labels)
    assert not rows[names < 0].any()


def test_a_bank_in_bfloat16_is_half_as_large_and_nearly_as_good() -> None:
    rng = np.random.default_rng(4)
    centres = _unit(rng, 5, 16)
    labels, truth = rng.integers(0, 5, 200), rng.integers(0, 5, 60)
    bank = centres[labels] + 0.1 * _unit(rng, 200, 16)
    queries = centres[truth] + 0.1 * _unit(rng, 60, 16)
    placed = Bank.place([bank.astype(jnp.bfloat16)], labels)
    assert placed.features.dtype == jnp.bfloat16
    found = placed.vote([queries[:, None].astype(jnp.bfloat16)], k=20, temp=0.07, num_classes=5).each[:, 0, 0]
    np.testing.assert_array_equal(found, truth)


def test_groups_add_their_members_votes() -> None:
    """Three queries of a group: one sure of class 0, two a little surer of class 2 than of class 1."""
    bank = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 2, 3])
    sure, torn = [1.0, 0.0, 0.0, 0.0], [0.0, 0.6, 0.8, 0.0]
    queries = np.float32([[sure, torn, torn]])
    found = Bank.place([bank], labels).vote([queries], k=2, temp=1.0, num_classes=4, top=3)
    # sure: classes 0 and, among equally far ones, 1: e, 1 -> .731, .269. torn: 2 and 1: e^.8, e^.6 -> .550, .450.
    np.testing.assert_array_equal(found.each[0, :, 0], [0, 2, 2])
    # Together: class 0 .731, class 1 .269 + .900 = 1.169, class 2 1.100.
    np.testing.assert_array_equal(found.group, [[1, 2, 0]])


@pytest.mark.parametrize(("parts", "query_block"), [(1, 100), (5, 4)])
def test_top_labels_are_those_of_brute_force_and_no_block_matters(parts: int, query_block: int) -> None:
    rng = np.random.default_rng(5)
    queries, bank, labels = _unit(rng, 30, 6).reshape(10, 3, 6), _unit(rng, 90, 6), rng.integers(0, 7, 90)
    placed = Bank.place([bank], labels, block=17)
    found = placed.vote(np.array_split(queries, parts), k=30, temp=0.1, num_classes=7, block=query_block)
    weights = np.zeros((10, 3, 7))
    for group, point in np.ndindex(10, 3):
        cosine = bank.astype(np.float64) @ queries[group, point]
        for index in np.argsort(-cosine, kind="stable")[:30]:
            weights[group, point, labels[index]] += np.exp(cosine[index] / 0.1)
    np.testing.assert_array_equal(found.each, np.argsort(-weights, axis=-1, kind="stable")[..., :5])
    pooled = (weights / weights.sum(axis=-1, keepdims=True)).sum(axis=1)
    np.testing.assert_array_equal(found.group, np.argsort(-pooled, axis=-1, kind="stable")[..., :5])


@pytest.mark.parametrize(
    ("query_block", "bank_block", "k", "devices"), [(64, 200, 9, 1), (7, 33, 9, 8), (1, 20, 1, 3), (50, 3, 1000, 8)]
)
def test_blocks_find_what_brute_force_finds(query_block: int, bank_block: int, k: int, devices: int) -> None:
    rng = np.random.default_rng(1)
    queries, bank = _unit(rng, 50, 4), _unit(rng, 100, 4)
    bank[40:] = bank[:60]  # equally near rows in different blocks: the first one counts
    placed = Bank.place([bank], block=bank_block, sharding=_on(devices))
    cosines, indices = map(np.array, placed.nearest(queries, k=k, block=query_block))
    products = (queries[:, None] * bank[None]).sum(axis=-1)
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(products, expected, axis=1), atol=1e-6)


def test_neighbours_are_those_of_sklearn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    queries, bank = _unit(rng, 100, 6), _unit(rng, 400, 6)
    model = neighbors.NearestNeighbors(n_neighbors=30, algorithm="brute", metric="cosine").fit(bank)
    np.testing.assert_array_equal(Bank.place([bank]).nearest(queries, k=30)[1], model.kneighbors(queries)[1])
