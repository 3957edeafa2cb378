"""The terms of the FLSL objective and their weighted sum (paper, Eq. 8, 11 and 13; docs/method.md, The objective).

To add a term: write it as a function of arrays, give it a name in `TERMS`, and give the configuration its weight, a field
`NAME_weight` of `flsl_jax.config.ObjectiveConfig` that is a number or a schedule, and its value in `configs/vits16.py`.
The step, the metrics, the terminal and the curves follow.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from flsl_jax.objective.checks import check_same_shape, check_scalar, check_shape, check_temp
from flsl_jax.objective.precision import at_least_float32
from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Float

Scalar = float | Float[Array, ""]
Prior = Float[Array, " K"] | np.ndarray | None


@flax.struct.dataclass
class FlslLoss:
    """The weighted sum, and each term before weighting by its name in `TERMS`; scalars."""

    total: Float[Array, ""]
    terms: dict[str, Float[Array, ""]]

    @property
    def intra(self) -> Float[Array, ""]:
        """See `intra_view_loss`."""
        return self.terms["intra"]

    @property
    def inter(self) -> Float[Array, ""]:
        """See `inter_view_loss`."""
        return self.terms["inter"]

    @property
    def volume(self) -> Float[Array, ""]:
        """See `volume_maximization`."""
        return self.terms["volume"]


@flax.struct.dataclass
class TermInputs:
    """What a term may be computed from: see `flsl_loss`; `log_probs` are the student's, for the modes."""

    queries: Float[Array, "*b Q D"]
    modes: Float[Array, "*b Q D"]
    log_probs: Float[Array, "*c K"]
    teacher_probs: Float[Array, "*c K"]
    prior: Prior


def intra_view_loss(queries: Float[Array, "*b Q D"], modes: Float[Array, "*b Q D"]) -> Float[Array, ""]:
    """Mean over queries of ‖z/‖z‖ − ẑ/‖ẑ‖‖² = 2 − 2 cos(z, ẑ) (Eq. 8), from 0 to 4. Gradients flow through z and ẑ.

    Raises:
        ValueError: the two have different shapes.
    """
    check_same_shape(queries=queries, modes=modes)
    queries, modes = (l2_normalise(at_least_float32(x)) for x in (queries, modes))
    cosine = jnp.sum(queries * modes, axis=-1)
    return jnp.mean(2.0 - 2.0 * cosine)


def inter_view_loss(
    student_logits: Float[Array, "*b K"], teacher_probs: Float[Array, "*b K"], *, temp: Scalar
) -> Float[Array, ""]:
    """Cross-entropy `H(p(ẑ⁺), p(ẑ))` of the student's softmax under the teacher's (Eq. 11), mean over leading axes.

    Args:
        student_logits: the student head's outputs for the modes ẑ.
        teacher_probs: targets that sum to 1 over K; no gradient flows into them.
        temp: the student's temperature, which divides the logits; more than 0.

    Raises:
        ValueError: logits and targets have different shapes, or the temperature is not one number above 0; its value is
            checked unless traced.
    """
    check_same_shape(student_logits=student_logits, teacher_probs=teacher_probs)
    check_temp("temp", temp)
    return _cross_entropy(_log_probs(student_logits, temp=temp), teacher_probs)


def volume_maximization(student_probs: Float[Array, "*b K"], *, prior: Prior = None) -> Float[Array, ""]:
    """`KL(p̄ ‖ π)` of the mean assignment from the prior (Eq. 13, non-empty k-means); at least 0, and 0 at the prior.

    Under `jax.jit` with the rows sharded over devices, the mean is that of the global batch, as the method requires.

    Value and gradient are finite where p̄ underflows to 0, too. Such a centroid adds 0 to the value, the limit of p̄ log p̄. By
    its probabilities, the gradient has the logarithm of the smallest normal number; by the logits behind them, it is 0.

    Args:
        student_probs: probabilities of every query of every student view; p̄ is their mean over the leading axes.
        prior: π, which sums to 1 and is positive where p̄ is. None is the uniform prior, which gives Σ p̄ log p̄ + log K.

    Raises:
        ValueError: the prior is not an array of K numbers, or it is not a distribution; the latter is checked unless traced.
    """
    student_probs = at_least_float32(student_probs)
    centroids = student_probs.shape[-1]
    mean = jnp.mean(student_probs.reshape(-1, centroids), axis=0)
    negative_entropy = jnp.sum(_xlogx(mean))
    if prior is None:
        return negative_entropy + np.log(centroids)
    _check_prior(prior, centroids)
    prior = jnp.asarray(prior, mean.dtype)
    # A centroid without prior adds nothing if its p̄ underflows; log 0 would make the gradient NaN.
    counted = jnp.where((prior > 0) | (mean >= jnp.finfo(mean.dtype).tiny), mean, 0.0)
    return negative_entropy - jnp.sum(jax.scipy.special.xlogy(counted, prior))


# The terms, added up in this order.
TERMS: Mapping[str, Callable[[TermInputs], Float[Array, ""]]] = {
    "intra": lambda inputs: intra_view_loss(inputs.queries, inputs.modes),
    "inter": lambda inputs: _cross_entropy(inputs.log_probs, inputs.teacher_probs),
    "volume": lambda inputs: volume_maximization(jnp.exp(inputs.log_probs), prior=inputs.prior),
}


def weight_key(term: str) -> str:
    """The key of a term's weight in `config.objective`, and its keyword of `flsl_loss`."""
    return f"{term}_weight"


def flsl_loss(
    *,
    queries: Float[Array, "*b Q D"],
    modes: Float[Array, "*b Q D"],
    student_logits: Float[Array, "*c K"],
    teacher_probs: Float[Array, "*c K"],
    student_temp: Scalar,
    prior: Prior = None,
    **weights: Scalar,
) -> FlslLoss:
    """The FLSL objective, `υ · intra + η · inter + γ · KL` (Eq. 13); (0.03, 1, 5) in the paper.

    Args:
        queries: raw student queries z.
        modes: their modes ẑ in the same student view.
        student_logits: the student head's outputs for the modes.
        teacher_probs: the targets for them, from the positive modes ẑ⁺.
        student_temp: divides the student's logits.
        prior: see `volume_maximization`.
        weights: one for each name in `TERMS`: `intra_weight`, `inter_weight`, `volume_weight` (υ, η, γ); may be traced.

    Raises:
        TypeError: a weight is missing, or a name is not that of a term's weight.
        ValueError: queries and modes, or logits and targets, have different shapes; there is not one row of logits for each
            mode; the temperature is not one number above 0 (its value is checked unless traced), a weight is not one number.
    """
    expected = {weight_key(name) for name in TERMS}
    if weights.keys() != expected:
        raise TypeError(f"flsl_loss got the weights {sorted(weights)}; expected {sorted(expected)}")
    for name, weight in weights.items():
        check_scalar(name, weight)
    check_same_shape(queries=queries, modes=modes)
    check_same_shape(student_logits=student_logits, teacher_probs=teacher_probs)
    if math.prod(modes.shape[:-1]) != math.prod(student_logits.shape[:-1]):
        raise ValueError(
            f"modes {modes.shape} and student_logits {student_logits.shape} have different numbers of rows; expected one row "
            "of logits for each mode"
        )
    check_temp("student_temp", student_temp)
    inputs = TermInputs(
        queries=queries,
        modes=modes,
        log_probs=_log_probs(student_logits, temp=student_temp),
        teacher_probs=teacher_probs,
        prior=prior,
    )
    terms = {name: term(inputs) for name, term in TERMS.items()}
    weighted = (weights[weight_key(name)] * value for name, value in terms.items())
    return FlslLoss(total=functools.reduce(operator.add, weighted), terms=terms)


def _log_probs(logits: Array, *, temp: Scalar) -> Array:
    return jax.nn.log_softmax(at_least_float32(logits) / temp, axis=-1)


def _cross_entropy(log_probs: Array, teacher_probs: Array) -> Array:
    targets = jax.lax.stop_gradient(at_least_float32(teacher_probs))
    return -jnp.mean(jnp.sum(targets * log_probs, axis=-1))


@jax.custom_jvp
def _xlogx(x: Array) -> Array:
    """`x log x`, and 0 at 0; in the derivative, the logarithm is at least that of the smallest normal number."""
    return jax.scipy.special.xlogy(x, x)


@_xlogx.defjvp
def _xlogx_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (x_dot,) = primals, tangents
    tiny = jnp.finfo(x.dtype).tiny
    # Not x / max(x, tiny): backwards, the loss's weight is divided first, and by `tiny` it would be infinite.
    return _xlogx(x), x_dot * jnp.log(jnp.maximum(x, tiny)) + x_dot * x / jnp.where(x < tiny, 1.0, x)


def _check_prior(prior: Array | np.ndarray, centroids: int) -> None:
    if not isinstance(prior, Array | np.ndarray):
        raise ValueError(f"prior is a {type(prior).__name__}; expected an array of {centroids} numbers, or None")
    check_shape("prior", prior, (centroids,), meaning="one number per centroid")
    if isinstance(prior, Tracer):
        return
    values = np.asarray(prior, np.float64)
    if not (values.min() >= 0 and abs(values.sum() - 1) <= 1e-5):
        raise ValueError(f"prior sums to {values.sum():.6g} with minimum {values.min():.3g}; expected a distribution")
