"""The three terms of the FLSL objective and their sum (paper, Eq. 8, 11 and 13)."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.objective.precision import at_least_float32
from flsl_jax.typing import Array, Float

Scalar = float | Float[Array, ""]


@flax.struct.dataclass
class FlslLoss:
    """The weighted sum and its terms before weighting; scalars."""

    total: Float[Array, ""]
    intra: Float[Array, ""]
    inter: Float[Array, ""]
    volume: Float[Array, ""]


def intra_view_loss(queries: Float[Array, "*b Q D"], modes: Float[Array, "*b Q D"]) -> Float[Array, ""]:
    """Mean over queries of ‖z/‖z‖ − ẑ/‖ẑ‖‖² = 2 − 2 cos(z, ẑ) (Eq. 8), from 0 to 4. Gradients flow through both."""
    cosine = jnp.sum(_l2_normalised(queries) * _l2_normalised(modes), axis=-1)
    return jnp.mean(2.0 - 2.0 * cosine)


def inter_view_loss(
    student_logits: Float[Array, "*b K"], teacher_probs: Float[Array, "*b K"], *, temp: Scalar
) -> Float[Array, ""]:
    """Cross-entropy `H(p(ẑ⁺), p(ẑ))` of the student's softmax under the teacher's (Eq. 11), mean over leading axes.

    Args:
        student_logits: the student head's outputs for the modes ẑ.
        teacher_probs: targets that sum to 1 over K; no gradient flows into them.
        temp: the student's temperature, which divides the logits; more than 0.
    """
    return _cross_entropy(_log_probs(student_logits, temp=temp), teacher_probs)


def volume_maximization(
    student_probs: Float[Array, "*b K"], *, prior: Float[Array, " K"] | np.ndarray | None = None
) -> Float[Array, ""]:
    """`KL(p̄ ‖ π)` of the mean assignment from the prior (Eq. 13, non-empty k-means); at least 0, and 0 at the prior.

    Under `jax.jit` with the rows sharded over devices the mean is that of the global batch, as the method needs.

    Args:
        student_probs: probabilities of every query of every student view; p̄ is their mean over the leading axes.
        prior: π, positive where p̄ is, sums to 1; uniform where None. With it the result is Σ p̄ log p̄ + log K.

    Raises:
        ValueError: the prior is not a vector of K numbers or, where its values are known, no distribution.
    """
    student_probs = at_least_float32(student_probs)
    centroids = student_probs.shape[-1]
    mean = jnp.mean(student_probs.reshape(-1, centroids), axis=0)
    negative_entropy = jnp.sum(jax.scipy.special.xlogy(mean, mean))
    if prior is None:
        return negative_entropy + np.log(centroids)
    _check_prior(prior, centroids)
    return negative_entropy - jnp.sum(jax.scipy.special.xlogy(mean, jnp.asarray(prior, mean.dtype)))


def flsl_loss(
    *,
    queries: Float[Array, "*b Q D"],
    modes: Float[Array, "*b Q D"],
    student_logits: Float[Array, "*c K"],
    teacher_probs: Float[Array, "*c K"],
    student_temp: Scalar,
    intra_weight: Scalar,
    inter_weight: Scalar,
    volume_weight: Scalar,
    prior: Float[Array, " K"] | np.ndarray | None = None,
) -> FlslLoss:
    """The FLSL objective, `υ · intra + η · inter + γ · KL` (Eq. 13); (0.03, 1, 5) in the paper.

    Args:
        queries: raw student queries z.
        modes: their modes ẑ in the same student view.
        student_logits: the student head's outputs for the modes.
        teacher_probs: the targets for them, from the positive modes ẑ⁺.
        student_temp: divides the student's logits.
        intra_weight, inter_weight, volume_weight: υ, η, γ; may be traced.
        prior: see `volume_maximization`.
    """
    log_probs = _log_probs(student_logits, temp=student_temp)
    intra = intra_view_loss(queries, modes)
    inter = _cross_entropy(log_probs, teacher_probs)
    volume = volume_maximization(jnp.exp(log_probs), prior=prior)
    total = intra_weight * intra + inter_weight * inter + volume_weight * volume
    return FlslLoss(total=total, intra=intra, inter=inter, volume=volume)


def _log_probs(logits: Array, *, temp: Scalar) -> Array:
    return jax.nn.log_softmax(at_least_float32(logits) / temp, axis=-1)


def _cross_entropy(log_probs: Array, teacher_probs: Array) -> Array:
    targets = jax.lax.stop_gradient(at_least_float32(teacher_probs))
    return -jnp.mean(jnp.sum(targets * log_probs, axis=-1))


def _l2_normalised(x: Array) -> Array:
    """`x / max(‖x‖, 1e-12)`, as torch's `normalize`: finite, with finite gradients, at the zero vector too."""
    x = at_least_float32(x)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def _check_prior(prior: Array | np.ndarray, centroids: int) -> None:
    if prior.shape != (centroids,):
        raise ValueError(f"prior has shape {prior.shape}; expected ({centroids},), one number per centroid")
    if isinstance(prior, jax.core.Tracer):
        return
    values = np.asarray(prior, np.float64)
    if values.min() < 0 or abs(values.sum() - 1) > 1e-5:
        raise ValueError(f"prior sums to {values.sum():.6g} with minimum {values.min():.3g}; expected a distribution")
