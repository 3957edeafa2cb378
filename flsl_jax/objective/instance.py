"""DINO's loss between the views of an image (Caron et al. 2021, Eq. 3): the twin that FLSL is compared with."""

import jax
import jax.numpy as jnp

from flsl_jax.objective.checks import check_temp
from flsl_jax.objective.precision import at_least_float32, product
from flsl_jax.typing import Array, Float


def dino_loss(
    student_logits: Float[Array, "*b V K"], teacher_probs: Float[Array, "*c T L"], *, temp: float | Float[Array, ""]
) -> Float[Array, ""]:
    """Mean cross-entropy over all pairs of a teacher view and another student view, and over images.

    Args:
        student_logits: the student head's outputs for V views; the first T are the teacher's views, in the same order.
        teacher_probs: targets that sum to 1 over K, of T views; no gradient flows into them.
        temp: the student's temperature, which divides the logits; more than 0.

    Raises:
        ValueError: there are fewer student views than teacher views, only one view in all, or the other axes differ; or the
            temperature is not one number above 0 (its value is checked unless traced).
    """
    views, teacher_views = student_logits.shape[-2], teacher_probs.shape[-2]
    same = student_logits.shape[:-2] == teacher_probs.shape[:-2] and student_logits.shape[-1] == teacher_probs.shape[-1]
    if not same or views < teacher_views or views < 2:
        raise ValueError(
            f"student_logits {student_logits.shape} and teacher_probs {teacher_probs.shape}; expected [..., V, K] and "
            "[..., T, K] with the teacher's T views first among the student's V, and V at least 2"
        )
    check_temp("temp", temp)
    log_probs = jax.nn.log_softmax(at_least_float32(student_logits) / temp, axis=-1)
    targets = jax.lax.stop_gradient(at_least_float32(teacher_probs))
    pairs = -product("...tk,...vk->...tv", targets, log_probs)
    other = 1.0 - jnp.eye(teacher_views, views, dtype=pairs.dtype)
    return jnp.mean(jnp.sum(pairs * other, axis=(-2, -1))) / (teacher_views * (views - 1))
