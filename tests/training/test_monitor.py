"""Monitor values against NumPy, and alarms on made-up readings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.objective import TERMS
from flsl_jax.training.monitor import Monitor, Thresholds, first_non_finite, monitor_values

B, N, Q, D, K, R = 3, 6, 4, 5, 7, 12


def make_inputs(seed=0):
    rng = np.random.default_rng(seed)

    def probs():
        values = rng.random((R, K))
        return values / values.sum(-1, keepdims=True)

    return {
        "student_probs": probs(),
        "teacher_probs": probs(),
        "tokens": rng.normal(size=(B, N, D)),
        "modes": rng.normal(size=(B, Q, D)),
        "attention_entropy": rng.random((B, Q)),
    }


def measure(**changes):
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in (make_inputs() | changes).items()}
    return {name: float(value) for name, value in jax.jit(monitor_values)(**inputs).items()}


def entropy(probs):
    return -np.sum(probs * np.log(probs), axis=-1)


def test_values_equal_numpy():
    inputs, values = make_inputs(), measure()
    student, teacher, tokens, modes = (inputs[name] for name in ("student_probs", "teacher_probs", "tokens", "modes"))
    flat = tokens.reshape(-1, D)
    eigenvalues = np.linalg.eigvalsh(np.cov(flat.T, bias=True))
    unit = modes / np.linalg.norm(modes, axis=-1, keepdims=True)
    cosines = [unit[b, i] @ unit[b, j] for b in range(B) for i in range(Q) for j in range(Q) if i != j]
    expected = {
        "mean_entropy": entropy(student.mean(0)),
        "student_entropy": entropy(student).mean(),
        "teacher_entropy": entropy(teacher).mean(),
        "used_centroids": len(set(teacher.argmax(-1))),
        "agreement": np.mean(student.argmax(-1) == teacher.argmax(-1)),
        "feature_std": np.mean(np.std(flat / np.linalg.norm(flat, axis=-1, keepdims=True), axis=0)) * np.sqrt(D),
        "effective_rank": eigenvalues.sum() ** 2 / np.sum(eigenvalues**2),
        "attention_share": inputs["attention_entropy"].mean() / np.log(N),
        "mode_similarity": np.mean(cosines),
        "position_share": np.var(tokens.mean(0), axis=0).sum() / np.var(flat, axis=0).sum(),
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=2e-5, err_msg=name)


def test_a_collapse_to_one_vector_is_seen():
    alike = measure(tokens=np.ones((B, N, D)), modes=np.ones((B, Q, D)))
    assert alike["feature_std"] < 1e-3
    assert alike["mode_similarity"] == pytest.approx(1.0, abs=1e-5)


def test_tokens_that_depend_on_the_place_alone_are_all_position():
    place = np.random.default_rng(1).normal(size=(1, N, D))
    assert measure(tokens=np.tile(place, (B, 1, 1)))["position_share"] == pytest.approx(1.0, abs=1e-5)


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


def test_the_first_non_finite_value_is_named():
    assert first_non_finite({"loss": 1.0, "intra": float("nan"), "inter": float("inf")}) == "intra"
    assert first_non_finite({"loss": 1.0}) is None


def test_no_loss_term_has_the_name_of_a_value_of_the_monitor():
    """Both are written under their names."""
    assert not TERMS.keys() & measure().keys()
