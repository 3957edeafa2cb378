"""The bbox-aligned k-NN: which tokens, which neighbours, which votes."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.scenes import Scenes
from flsl_jax.data.sources import Record
from flsl_jax.errors import UserError
from flsl_jax.evaluation.bbox_knn import (
    KnnData,
    box_features,
    box_patches,
    evaluate_bbox_knn,
    evaluate_tokens_and_modes,
    knn_classify,
    pixel_tokens,
    prepare_knn,
)


@dataclasses.dataclass(frozen=True)
class _Records:
    """A source of given records."""

    records: tuple[Record, ...]
    class_names: tuple[str, ...] = ("ant", "bee", "cat")
    name: str = "given"

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def _record(image: np.ndarray | bytes, *corners: tuple[float, ...], name: str = "r") -> Record:
    boxes = Boxes(xyxy=np.array(corners, np.float32).reshape(-1, 4), labels=np.arange(len(corners), dtype=np.int64))
    return Record(image=image, name=name, boxes=boxes)


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


def test_votes_of_a_case_worked_by_hand() -> None:
    angles = np.deg2rad([0, 30, 31, 32, 180])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([0, 1, 1, 1, 2])
    query = np.array([[1, 0]], np.float32)
    # cosines 1, .866, .857, .848, -1. At temperature 1: e¹ = 2.72 for class 0; 2.38 + 2.36 + 2.34 for class 1.
    assert knn_classify(query, bank, labels, k=4, temp=1.0) == [1]
    # At 0.07, less the largest exponent: 1 for class 0; 0.148 + 0.130 + 0.114 = 0.39 for class 1.
    assert knn_classify(query, bank, labels, k=4, temp=0.07) == [0]
    assert knn_classify(query, bank, labels, k=1, temp=1.0) == [0]
    assert knn_classify(-query, bank, labels, k=1, temp=1.0) == [2]


@pytest.mark.parametrize("k", [1, 7, 140, 1000])
def test_predictions_are_those_of_brute_force(k: int) -> None:
    rng = np.random.default_rng(k)
    queries, bank, labels = _unit(rng, 60, 5), _unit(rng, 300, 5), rng.integers(0, 9, 300)
    found = knn_classify(queries, bank, labels, k=k, temp=0.07)
    np.testing.assert_array_equal(found, _knn_reference(queries, bank, labels, k=k, temp=0.07))


def test_predictions_are_those_of_sklearn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    queries, bank, labels = _unit(rng, 100, 6), _unit(rng, 400, 6), rng.integers(0, 10, 400)
    classifier = neighbors.KNeighborsClassifier(
        n_neighbors=140, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = classifier.fit(bank.astype(np.float64), labels).predict(queries.astype(np.float64))
    np.testing.assert_array_equal(knn_classify(queries, bank, labels, k=140, temp=0.07), expected)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([1, 7, 50, 64]), st.sampled_from([3, 20, 33, 200]))
def test_blocks_change_no_prediction(query_block: int, bank_block: int) -> None:
    rng = np.random.default_rng(1)
    queries, bank, labels = _unit(rng, 50, 4), _unit(rng, 100, 4), rng.integers(0, 5, 100)
    bank[40:] = bank[:60]  # equally near neighbours with different labels, in different blocks
    whole = knn_classify(queries, bank, labels, k=9, temp=0.07, query_block=50, bank_block=100)
    blocks = knn_classify(queries, bank, labels, k=9, temp=0.07, query_block=query_block, bank_block=bank_block)
    np.testing.assert_array_equal(blocks, whole)


def test_a_small_temperature_leaves_the_nearest() -> None:
    rng = np.random.default_rng(2)
    queries, bank, labels = _unit(rng, 40, 4), _unit(rng, 80, 4), rng.integers(0, 5, 80)
    nearest = labels[(queries @ bank.T).argmax(axis=1)]
    np.testing.assert_array_equal(knn_classify(queries, bank, labels, k=80, temp=1e-6), nearest)


def test_patches_of_boxes_by_hand() -> None:
    np.testing.assert_array_equal(box_patches(np.float32([0, 0, 24, 24]), patch_size=8, grid=3), range(9))
    # Points at x = 10, 14, 18 and y = 1, 3, 5 of 8 px patches: columns 1, 1, 2, row 0.
    np.testing.assert_array_equal(box_patches(np.float32([8, 0, 20, 6]), patch_size=8, grid=4), [1, 1, 2] * 3)
    np.testing.assert_array_equal(box_patches(np.float32([31, 31, 32, 32]), patch_size=8, grid=4), [15] * 9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 56, width=32), min_size=4, max_size=4))
def test_each_patch_is_the_one_whose_centre_is_nearest(numbers: list[float]) -> None:
    (x0, x1), (y0, y1) = sorted(numbers[:2]), sorted(numbers[2:])
    patches = box_patches(np.float32([x0, y0, x1, y1]), patch_size=8, grid=7)
    centers = (np.stack(np.meshgrid(np.arange(7), np.arange(7)), axis=-1).reshape(-1, 2) + 0.5) * 8
    points = [(x0 + (i + 0.5) / 3 * (x1 - x0), y0 + (j + 0.5) / 3 * (y1 - y0)) for j in range(3) for i in range(3)]
    for point, patch in zip(points, patches):
        distance = np.hypot(*(centers - point).T)
        assert distance[patch] <= distance.min() + 1e-5


def test_the_largest_box_is_chosen_after_the_crop() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 30:40] = 200
    # 80×40 to 16 px: 32×16, of which the columns 8 to 24 stay, the original's 20 to 60. Box 0 shrinks to 2 columns.
    data = prepare_knn(
        _Records((_record(image, (0, 0, 25, 40), (30, 10, 50, 30)), _record(image), _record(image, (0, 0, 20, 40)))),
        size=16,
        patch_size=4,
    )
    assert data.images.shape == (1, 16, 16, 3)
    np.testing.assert_array_equal(data.labels, [1])
    # In the crop, box 1 is 4..12 both ways: points at 5.33, 8, 10.67.
    np.testing.assert_array_equal(data.patches, [[5, 6, 6, 9, 10, 10, 9, 10, 10]])
    assert data.images[0, :, 5:7].min() > 180
    assert data.images[0, :, 12:].max() < 20


def test_encoded_images_are_read_and_damaged_ones_left_out() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 20, 30)).save(buffer, "PNG")
    good = _record(buffer.getvalue(), (0, 0, 16, 16))
    data = prepare_knn(_Records((good, _record(b"no image", (0, 0, 9, 9)), good)), size=16, patch_size=8)
    np.testing.assert_array_equal(data.images, np.broadcast_to(np.uint8([10, 20, 30]), (2, 16, 16, 3)))
    assert data.class_names == ("ant", "bee", "cat")


def test_sources_without_boxes_or_with_those_of_other_images_are_refused() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="given: no image has a box"):
        prepare_knn(_Records((Record(image=image, name="r"),)), size=16, patch_size=8)
    with pytest.raises(UserError, match=r"photo: a box reaches to \(32, 32\) in an image of 16×16"):
        prepare_knn(_Records((_record(image, (0, 0, 32, 32), name="photo"),)), size=16, patch_size=8)


def _data(labels: list[int], *, images: np.ndarray, class_names: tuple[str, ...] = ("ant", "bee", "cat")) -> KnnData:
    return KnnData(
        images=images,
        patches=np.broadcast_to(np.arange(9, dtype=np.int32), (len(labels), 9)),
        labels=np.array(labels, np.int32),
        class_names=class_names,
    )


def _painted(colors: list[list[int]]) -> np.ndarray:
    """Images of 3×3 patches of one pixel, each of which says by its level which one-hot token it has."""
    return np.broadcast_to(np.uint8(colors).reshape(-1, 3, 3, 1), (len(colors), 3, 3, 3)).copy()


def _one_hot(images: np.ndarray | jax.Array) -> jax.Array:
    return jax.nn.one_hot(jnp.asarray(images)[..., 0].reshape(images.shape[0], -1), 5)


def test_shares_count_images_and_tokens() -> None:
    train = _data([0, 1, 2], images=_painted([[0] * 9, [1] * 9, [2] * 9]))
    # All 9 right; 5 of 9 right; 1 of 9 right; none right.
    val = _data([0, 1, 2, 0], images=_painted([[0] * 9, [1] * 5 + [0] * 4, [0, 1] * 4 + [2], [1, 2, 2] * 3]))
    result = evaluate_bbox_knn(train, val, _one_hot, batch_size=3, k=1, k_scale=1)
    assert result.any == 3 / 4
    assert result.majority == 2 / 4
    assert result.token == pytest.approx(15 / 36)


def test_classes_are_matched_by_name() -> None:
    train = _data([0, 1, 2], images=_painted([[0] * 9, [1] * 9, [2] * 9]))
    images = _painted([[0] * 9, [1] * 9, [2] * 9])
    renumbered = _data([2, 1, 0], images=images, class_names=("cat", "bee", "ant"))
    assert evaluate_bbox_knn(train, renumbered, _one_hot, batch_size=2).token == 1
    unknown = _data([0, 1, 2], images=images, class_names=("ant", "dog", "eel"))
    assert evaluate_bbox_knn(train, unknown, _one_hot, batch_size=2).any == pytest.approx(1 / 3)
    other = _data([0, 1, 2], images=images, class_names=("x", "y", "z"))
    with pytest.raises(UserError, match=r"\(ant, bee, cat\).*\(x, y, z\) have no name in common"):
        evaluate_bbox_knn(train, other, _one_hot, batch_size=2)
    nameless = _data([0, 1, 2], images=images, class_names=())
    assert evaluate_bbox_knn(nameless, nameless, _one_hot, batch_size=2).token == 1


def _random_data(count: int = 5) -> KnnData:
    rng = np.random.default_rng(0)
    return KnnData(
        images=rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
        patches=rng.integers(0, 16, (count, 9), dtype=np.int32),
        labels=rng.integers(0, 3, count, dtype=np.int32),
        class_names=("ant", "bee", "cat"),
    )


def _pixels(images: np.ndarray | jax.Array) -> jax.Array:
    return pixel_tokens(images, patch_size=4)


def test_features_are_normalised_tokens_and_modes_of_their_own_image() -> None:
    data = _random_data()
    features = box_features(data, _pixels, batch_size=2, inv_temp=0.4)
    for index in range(5):
        tokens = np.array(_pixels(data.images[index : index + 1]))[0].astype(np.float64)
        chosen = tokens[data.patches[index]]
        attention = np.exp(0.4 * chosen @ tokens.T)
        modes = attention / attention.sum(axis=1, keepdims=True) @ tokens
        for found, expected in ((features.tokens[index], chosen), (features.modes[index], modes)):
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert box_features(data, _pixels, batch_size=2).modes is None


def test_a_sharded_batch_gives_the_same_features() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    alone = box_features(_random_data(11), _pixels, batch_size=8, inv_temp=0.4)
    sharded = box_features(_random_data(11), _pixels, batch_size=8, inv_temp=0.4, sharding=sharding)
    np.testing.assert_allclose(sharded.tokens, alone.tokens, atol=1e-6)
    np.testing.assert_allclose(sharded.modes, alone.modes, atol=1e-6)


def test_modes_are_measured_beside_tokens() -> None:
    train = _data([0, 1, 2], images=_painted([[0] * 9, [1] * 9, [2] * 9]))
    val = _data([0, 1, 2, 0], images=_painted([[0] * 9, [1] * 5 + [0] * 4, [0, 1] * 4 + [2], [1, 2, 2] * 3]))
    tokens = evaluate_bbox_knn(train, val, _one_hot, batch_size=3)
    # Strong attention: the mode of a one-hot token is that token.
    strong = evaluate_tokens_and_modes(train, val, _one_hot, inv_temp=100.0, batch_size=3)
    assert strong.tokens == strong.modes == tokens
    # No attention: every mode is the mean of its image, nearest to the class of most of its tokens.
    none = evaluate_tokens_and_modes(train, val, _one_hot, inv_temp=0.0, batch_size=3, k=1, k_scale=1)
    assert none.tokens == tokens
    assert none.modes.any == none.modes.majority == none.modes.token == 2 / 4


def test_scenes_are_measured_from_end_to_end() -> None:
    train, val = (
        prepare_knn(Scenes(count=count, size=32, split=split), size=32, patch_size=8)
        for count, split in ((40, "train"), (20, "val"))
    )

    def encode(images: np.ndarray | jax.Array) -> jax.Array:
        return pixel_tokens(images, patch_size=8)

    result = evaluate_bbox_knn(train, val, encode, batch_size=16)
    assert 0 <= result.majority <= result.any <= 1
    assert result.token <= result.any
    itself = evaluate_bbox_knn(train, train, encode, batch_size=16, k=1, k_scale=1)
    assert itself.any == 1


def test_pixel_tokens_are_the_patches() -> None:
    images = np.random.default_rng(3).integers(0, 256, (2, 8, 12, 3), dtype=np.uint8)
    tokens = np.array(pixel_tokens(images, patch_size=4))
    assert tokens.shape == (2, 6, 48)
    for row in range(2):
        for column in range(3):
            patch = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, -1)
            np.testing.assert_allclose(tokens[:, 3 * row + column], patch / 255 - 0.5, atol=1e-6)
