"""Targets from the teacher's logits: a softmax, possibly centred or balanced (paper, Eq. 11; Tables 5 and 11–14)."""

import jax
import jax.numpy as jnp

from flsl_jax.objective.checks import check_number, check_shape, check_temp
from flsl_jax.objective.precision import at_least_float32
from flsl_jax.typing import Array, Float

Scalar = float | Float[Array, ""]

_CENTER = "one number per centroid"


def softmax_targets(
    logits: Float[Array, "*b K"], *, temp: Scalar, center: Float[Array, " K"] | None = None
) -> Float[Array, "*b K"]:
    """Softmax of `(logits - center) / temp` over the centroids.

    Args:
        logits: the teacher head's outputs for the positive modes.
        temp: the teacher's temperature, which divides; more than 0.
        center: subtracted from the logits first, as in DINO (Caron et al. 2021, Sec. 3.1); None for the main recipe.

    Raises:
        ValueError: the temperature is not one number above 0 (its value is checked unless traced), or the center does not have
            K numbers.
    """
    check_temp("temp", temp)
    if center is not None:
        check_shape("center", center, logits.shape[-1:], meaning=_CENTER)
    logits = at_least_float32(logits)
    return jax.nn.softmax((logits if center is None else logits - center) / temp, axis=-1)


def sinkhorn_targets(logits: Float[Array, "*b K"], *, temp: Scalar, iterations: int = 1) -> Float[Array, "*b K"]:
    """Targets whose sum is spread evenly over the centroids (Cuturi 2013; in the paper, a substitute for the KL term).

    Starts from `exp(logits / temp)` and repeats `iterations` times: divide every centroid's column by its sum over the rows
    (a softmax along the batch axis), then every row by its sum. One iteration is the paper's softmax along the batch axis,
    followed by a division that makes every row sum to 1. It is computed on logarithms. The rows are all leading axes
    together; under `jax.jit` with sharded rows they are those of the global batch.

    Args:
        logits: the teacher head's outputs for the positive modes.
        temp: the teacher's temperature, which divides; more than 0.
        iterations: 1 or more.

    Raises:
        ValueError: `iterations` is less than 1, or the temperature is not one number above 0 (its value is checked unless
            traced).
    """
    check_temp("temp", temp)
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; expected at least 1")
    log_probs = at_least_float32(logits).reshape(-1, logits.shape[-1]) / temp
    for _ in range(iterations):
        log_probs = jax.nn.log_softmax(log_probs, axis=0)
        log_probs = jax.nn.log_softmax(log_probs, axis=1)
    return jnp.exp(log_probs).reshape(logits.shape)


def updated_center(center: Float[Array, " K"], logits: Float[Array, "*b K"], *, momentum: float) -> Float[Array, " K"]:
    """`momentum · center + (1 − momentum) · mean`, with the logits' mean over all leading axes.

    `momentum` is in [0, 1], and 0.9 in the release and in DINO.

    Raises:
        ValueError: the center does not have K numbers, or the momentum is not one number from 0 to 1.
    """
    check_shape("center", center, logits.shape[-1:], meaning=_CENTER)
    check_number("momentum", momentum, low=0.0, high=1.0)
    mean = jnp.mean(at_least_float32(logits).reshape(-1, logits.shape[-1]), axis=0)
    return momentum * center + (1.0 - momentum) * mean
