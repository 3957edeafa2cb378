"""Confusion, mIoU and matching against scikit-learn, scipy's brute force and cases worked by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.evaluation.miou import confusion_matrix, hungarian_match, majority_match, mask_scores, matched


def test_a_case_worked_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1], [1, 1, -1, -1]])
    prediction = np.array([[0, 0, 1, 1], [1, 2, 0, 2]])
    confusion = confusion_matrix(truth, prediction, num_classes=4)
    np.testing.assert_array_equal(confusion, [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = mask_scores(confusion)
    # Class 0: 2 of 3. Class 1: 2 of 3 true and 1 false. Class 2: predicted once, never there. Class 3: nowhere.
    np.testing.assert_allclose(scores.iou, [2 / 3, 2 / 4, 0, np.nan])
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores.macc == pytest.approx(2 / 3)
    assert scores.aacc == pytest.approx(4 / 6)
    assert mask_scores(confusion, absent="zero").miou == pytest.approx((2 / 3 + 1 / 2) / 4)
    assert [row["class"] for row in scores.rows(("a", "b", "c", "d"))] == ["a", "b", "c"]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(2, 7))
def test_scores_are_those_of_sklearn(seed: int, num_classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, prediction = rng.integers(-1, num_classes, (2, 4, 30))
    prediction = np.maximum(prediction, 0)
    confusion = confusion_matrix(truth, prediction, num_classes=num_classes)
    counted = (truth[truth >= 0], prediction[truth >= 0])
    labels = np.arange(num_classes)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(*counted, labels=labels))
    scores = mask_scores(confusion)
    present = np.unique(np.concatenate(counted))
    expected = metrics.jaccard_score(*counted, labels=present, average=None)
    np.testing.assert_allclose(scores.iou[present], expected)
    assert scores.miou == pytest.approx(metrics.jaccard_score(*counted, labels=present, average="macro"))
    true = np.unique(counted[0])
    assert scores.macc == pytest.approx(metrics.recall_score(*counted, labels=true, average="macro"))
    assert scores.aacc == pytest.approx(metrics.accuracy_score(*counted))


def test_one_confusion_of_the_set_is_not_the_mean_of_images() -> None:
    first = confusion_matrix(np.zeros(10, int), np.zeros(10, int), num_classes=2)
    second = confusion_matrix(np.array([0, 1]), np.array([1, 1]), num_classes=2)
    assert mask_scores(first + second).miou == pytest.approx((10 / 11 + 1 / 2) / 2)


def test_labels_out_of_range_are_refused() -> None:
    for truth, prediction in (([2], [0]), ([0], [3]), ([0], [-1])):
        with pytest.raises(ValueError, match="labels beyond"):
            confusion_matrix(np.array(truth), np.array(prediction), num_classes=2, num_predicted=3)
    with pytest.raises(ValueError, match="0 pixels"):
        mask_scores(np.zeros((2, 2), int))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from(["pixels", "iou"]))
def test_the_hungarian_match_is_the_best_of_all(seed: int, by: str) -> None:
    rng = np.random.default_rng(seed)
    confusion = rng.integers(0, 20, (4, 5))
    confusion[rng.integers(4)] = 0
    confusion[:, 2] += 1
    gain = confusion.astype(float)
    if by == "iou":
        gain = gain / np.maximum(confusion.sum(1, keepdims=True) + confusion.sum(0) - confusion, 1)
    best = max(sum(gain[row, column] for row, column in enumerate(p)) for p in itertools.permutations(range(5), 4))
    match = hungarian_match(confusion, by=by)
    taken = match[match >= 0]
    assert len(set(taken)) == len(taken)
    assert sum(gain[label, cluster] for cluster, label in enumerate(match) if label >= 0) == pytest.approx(best)


def test_classes_that_do_not_occur_are_not_matched() -> None:
    confusion = np.array([[5, 0, 1], [0, 0, 0], [0, 4, 2]])
    match = hungarian_match(confusion)
    np.testing.assert_array_equal(match, [0, 2, -1])
    merged = matched(confusion, match)
    np.testing.assert_array_equal(merged, [[5, 0, 0, 1], [0, 0, 0, 0], [0, 0, 4, 2]])
    # The pixels of the third cluster are wrong, and in no class's union but their own.
    np.testing.assert_allclose(mask_scores(merged).iou, [5 / 6, np.nan, 4 / 6])


def test_majority_gives_many_clusters_one_class() -> None:
    confusion = np.array([[5, 3, 1, 0], [1, 3, 7, 0]])
    np.testing.assert_array_equal(majority_match(confusion), [0, 0, 1, -1])
    np.testing.assert_array_equal(matched(confusion, majority_match(confusion)), [[8, 1, 0], [4, 7, 0]])
