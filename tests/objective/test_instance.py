"""DINO's loss against plain loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import objective


def dino_loss_reference(student_logits, teacher_probs, temp):
    """Caron et al. 2021, Algorithm 1, with multi-crop: every teacher view with every student view but itself."""
    total, terms = 0.0, 0
    for t in range(teacher_probs.shape[1]):
        for v in range(student_logits.shape[1]):
            if t == v:
                continue
            scaled = student_logits[:, v] / temp
            log_probs = scaled - np.log(np.exp(scaled - scaled.max(-1, keepdims=True)).sum(-1, keepdims=True))
            log_probs -= scaled.max(-1, keepdims=True)
            total += -(teacher_probs[:, t] * log_probs).sum(-1).mean()
            terms += 1
    return total / terms


def make_inputs(views=10, teacher_views=2, images=3, centroids=7):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(images, views, centroids))
    probs = rng.random((images, teacher_views, centroids))
    return logits, probs / probs.sum(-1, keepdims=True)


@pytest.mark.parametrize(("views", "teacher_views"), [(10, 2), (2, 2), (3, 1)])
def test_the_loss_is_that_of_plain_loops(views, teacher_views):
    logits, probs = make_inputs(views, teacher_views)
    ours = objective.dino_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(probs, jnp.float32), temp=0.1)
    assert float(ours) == pytest.approx(dino_loss_reference(logits, probs, 0.1), rel=1e-6)


def test_no_gradient_reaches_the_teacher():
    logits, probs = map(jnp.asarray, make_inputs())
    to_student, to_teacher = jax.grad(objective.dino_loss, argnums=(0, 1))(logits, probs, temp=0.1)
    assert not np.any(to_teacher)
    assert np.all(np.any(to_student, axis=-1))


@pytest.mark.parametrize(
    "shapes", [((3, 1, 7), (3, 2, 7)), ((3, 1, 7), (3, 1, 7)), ((3, 4, 7), (3, 2, 1)), ((2, 4, 7), (1, 2, 7))]
)
def test_shapes_that_do_not_belong_together_are_refused(shapes):
    student, teacher = map(jnp.zeros, shapes)
    with pytest.raises(ValueError, match="student_logits"):
        objective.dino_loss(student, teacher, temp=0.1)
