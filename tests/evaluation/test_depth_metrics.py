"""The numbers of depth estimation, worked out by hand, and the crops."""

import math

import numpy as np
import pytest

from flsl_jax.evaluation.depth_metrics import depth_scores, fits_crop, judged_mask, mean_scores


def test_numbers_are_those_worked_out_by_hand() -> None:
    """Truth 1, 2, 4, 10 and found 1, 2.5, 2, 12: ratios 1, 1.25, 2, 1.2; 1.25 is not below 1.25."""
    scores = depth_scores(np.array([1.0, 2.0, 4.0, 10.0]), np.array([1.0, 2.5, 2.0, 12.0]))
    logs = (math.log10(1.25), math.log10(2), math.log10(1.2))
    assert scores == pytest.approx(
        {
            "rmse": math.sqrt((0.25 + 4 + 4) / 4),
            "absrel": (0.25 + 0.5 + 0.2) / 4,
            "log10": sum(logs) / 4,
            "delta1": 0.5,
            "delta2": 0.75,
            "delta3": 0.75,
        }
    )


def test_means_are_over_images_not_pixels() -> None:
    first, second = depth_scores(np.ones(3), np.ones(3)), depth_scores(np.ones(1), np.full(1, 2.0))
    assert mean_scores([first, second])["rmse"] == 0.5


def test_crops_are_the_published_ones() -> None:
    eigen = judged_mask(np.ones((480, 640)), low=0.1, high=10.0, crop="eigen")
    assert (eigen[45:471, 41:601].all(), eigen.sum()) == (True, 426 * 560)
    garg = judged_mask(np.ones((375, 1242)), low=0.1, high=80.0, crop="garg")
    assert (garg[153:371, 44:1197].all(), garg.sum()) == (True, 218 * 1153)
    assert fits_crop((480, 640), "eigen")
    assert not fits_crop((640, 480), "eigen")
    assert fits_crop((64, 64), "garg")


def test_depths_count_strictly_between_the_bounds() -> None:
    judged = judged_mask(np.array([[0, 0.001, 0.5, 9.99, 10, 11]], np.float64), low=0.001, high=10.0, crop="none")
    np.testing.assert_array_equal(judged, [[False, False, True, True, False, False]])
