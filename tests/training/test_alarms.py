"""Alarms on made-up readings."""

import math

import pytest

from flsl_jax.training.alarms import Monitor, Thresholds

LOG_K = math.log(100)
HEALTHY = {
    "mean_entropy": 0.95 * LOG_K,
    "teacher_entropy": 0.5 * LOG_K,
    "used_centroids": 80.0,
    "feature_std": 0.9,
    "effective_rank": 20.0,
    "attention_share": 0.6,
    "mode_similarity": 0.4,
    "position_share": 0.1,
    "agreement": 0.6,
}


@pytest.mark.parametrize(
    ("name", "reading", "advice"),
    [
        ("one_centroid", {"mean_entropy": 0.1}, "volume_weight"),
        ("undecided", {"teacher_entropy": 0.999 * LOG_K}, "teacher_temp"),
        ("dead_centroids", {"used_centroids": 3.0}, "centroids"),
        ("constant_features", {"feature_std": 0.01}, "lr"),
        ("constant_features", {"effective_rank": 1.1}, "momentum"),
        ("soft_attention", {"attention_share": 0.99}, "self_inv_temp"),
        ("soft_attention", {"mode_similarity": 0.99}, "cross_inv_temp"),
        ("hard_attention", {"attention_share": 0.001}, "Lower config.objective.self_inv_temp"),
        ("position_shortcut", {"position_share": 0.8}, "student_area"),
        ("no_agreement", {"agreement": 0.0}, "jitter"),
    ],
)
def test_an_alarm_names_cause_and_remedy_after_some_readings_and_repeats(name, reading, advice):
    monitor = Monitor(num_centroids=100, thresholds=Thresholds(readings=3, repeat=5))
    raised = [[alarm.name for alarm in monitor.update(step, HEALTHY | reading)] for step in range(1, 14)]
    assert [step for step, names in enumerate(raised, start=1) if names == [name]] == [3, 8, 13]
    assert all(names in ([], [name]) for names in raised)
    monitor = Monitor(num_centroids=100, thresholds=Thresholds(readings=1))
    assert advice in monitor.update(1, HEALTHY | reading)[0].message


def test_healthy_readings_raise_nothing_and_end_a_streak():
    monitor = Monitor(num_centroids=100)
    bad = HEALTHY | {"agreement": 0.0}
    for step, values in enumerate([bad, bad, HEALTHY, bad, bad]):
        assert monitor.update(step, values) == []
