"""The values of the monitor against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.objective import TERMS
from flsl_jax.training.monitor import cluster_values, feature_values, first_non_finite, mode_values

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
    return {name: float(value) for name, value in all_values(**inputs).items()}


@jax.jit
def all_values(student_probs, teacher_probs, tokens, modes, attention_entropy):
    values = cluster_values(student_probs=student_probs, teacher_probs=teacher_probs) | feature_values(tokens)
    return values | mode_values(modes=modes, attention_entropy=attention_entropy, tokens=tokens, inv_temp=0.5)


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
        "assignments": R,
        "agreement": np.mean(student.argmax(-1) == teacher.argmax(-1)),
        "feature_std": np.mean(np.std(flat / np.linalg.norm(flat, axis=-1, keepdims=True), axis=0)) * np.sqrt(D),
        "effective_rank": eigenvalues.sum() ** 2 / np.sum(eigenvalues**2),
        "attention_share": inputs["attention_entropy"].mean() / np.log(N),
        "mode_similarity": np.mean(cosines),
        "normalised_inv_temp": 0.5 * np.mean(np.sum(tokens**2, axis=-1)),
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


def test_the_first_non_finite_value_is_named():
    assert first_non_finite({"loss": 1.0, "intra": float("nan"), "inter": float("inf")}) == "intra"
    assert first_non_finite({"loss": 1.0}) is None


def test_no_loss_term_has_the_name_of_a_value_of_the_monitor():
    """Both are written under their names."""
    assert not TERMS.keys() & measure().keys()
