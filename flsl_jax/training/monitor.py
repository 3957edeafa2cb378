"""What a falling loss does not show: values of one step that tell whether the features are collapsing.

All functions are jittable, see no gradient and give scalars over the global batch. A method calls those whose inputs it has.
"""

import math

import jax
import jax.numpy as jnp

from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Bool, Float

Values = dict[str, Float[Array, ""]]


def cluster_values(*, student_probs: Float[Array, "R K"], teacher_probs: Float[Array, "R K"]) -> Values:
    """How the centroids are used.

    Args:
        student_probs, teacher_probs: of the same rows.

    Returns:
        mean_entropy: H(p̄), nats; ln K when all centroids are used alike.
        student_entropy, teacher_entropy: mean H(p), nats; ln K when nothing is decided.
        used_centroids: centroids that are some teacher row's most probable one; in a tie all of them are.
        assignments: R, the rows that could use a centroid each.
        agreement: share of rows whose most probable centroid is the same for student and teacher.
    """
    student_probs, teacher_probs = jax.lax.stop_gradient((student_probs, teacher_probs))
    winners = _most_probable(teacher_probs)
    # Counted in float32, because devices then add it up together with the mean probabilities, in one exchange.
    return {
        "mean_entropy": _entropy(jnp.mean(student_probs, axis=0)),
        "student_entropy": jnp.mean(_entropy(student_probs)),
        "teacher_entropy": jnp.mean(_entropy(teacher_probs)),
        "used_centroids": jnp.sum((jnp.sum(winners.astype(jnp.float32), axis=0) > 0).astype(jnp.float32)),
        "assignments": jnp.float32(len(teacher_probs)),
        "agreement": jnp.mean(jnp.any(_most_probable(student_probs) & winners, axis=-1).astype(jnp.float32)),
    }


def feature_values(tokens: Float[Array, "B N D"]) -> Values:
    """How the features of a batch spread.

    Args:
        tokens: of one student view of every image.

    Returns:
        feature_std: mean over channels of the standard deviation of l2-normalised tokens, times √D: near 1 when they
            fill the sphere, 0 when all are alike.
        effective_rank: participation ratio (tr C)² / ‖C‖² of the tokens' covariance C, from 1 to D.
        position_share: share of the tokens' variance that the place in the grid explains; 1/B for noise.
    """
    tokens = jax.lax.stop_gradient(tokens)
    batch, count, width = tokens.shape
    flat = tokens.reshape(batch * count, width)
    centred = flat - jnp.mean(flat, axis=0)
    with jax.named_scope("covariance"):
        covariance = centred.T @ centred / flat.shape[0]
    place = jnp.mean(tokens, axis=0)
    variance = jnp.trace(covariance)
    tiny = jnp.finfo(tokens.dtype).tiny
    return {
        "feature_std": jnp.mean(jnp.std(l2_normalise(flat), axis=0)) * math.sqrt(width),
        "effective_rank": jnp.square(variance) / jnp.maximum(jnp.sum(jnp.square(covariance)), tiny),
        "position_share": jnp.mean(jnp.sum(jnp.square(place - jnp.mean(place, axis=0)), axis=-1))
        / jnp.maximum(variance, tiny),
    }


def mode_values(
    *,
    modes: Float[Array, "B Q D"],
    attention_entropy: Float[Array, "B Q"],
    tokens: Float[Array, "B N D"],
    inv_temp: float | Float[Array, ""],
) -> Values:
    """What the mean shift makes of the queries.

    Args:
        modes: of the queries of all student views.
        attention_entropy: of each query's mean-shift weights, in nats.
        tokens: of one student view of every image.
        inv_temp: τ of the attention to the query's own view, a factor of products of tokens.

    Returns:
        attention_share: mean attention entropy over ln N; 1 when every mode is the mean of its view.
        mode_similarity: mean cosine between the modes of one image; 1 when all are alike.
        normalised_inv_temp: τ · the tokens' mean ‖z‖², which is a token's logit for itself: how sharp the attention is,
            whatever the width.
    """
    modes, tokens = jax.lax.stop_gradient((modes, tokens))
    unit_modes = l2_normalise(modes)
    queries = modes.shape[1]
    # The sum over all pairs is the squared norm of the sum; the pairs of a mode with itself, 1 each, are taken out.
    pairs = jnp.mean(jnp.sum(jnp.square(jnp.sum(unit_modes, axis=1)), axis=-1))
    return {
        "attention_share": jnp.mean(attention_entropy) / math.log(tokens.shape[1]),
        "mode_similarity": (pairs - queries) / (queries * max(queries - 1, 1)),
        "normalised_inv_temp": inv_temp * jnp.mean(jnp.sum(jnp.square(tokens), axis=-1)),
    }


def first_non_finite(values: dict[str, float]) -> str | None:
    """The first name whose value is NaN or infinite."""
    return next((name for name, value in values.items() if not math.isfinite(value)), None)


def _entropy(probs: Float[Array, "*b K"]) -> Float[Array, "*b"]:
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def _most_probable(probs: Float[Array, "R K"]) -> Bool[Array, "R K"]:
    """True at each row's largest value; in a tie at all of them. XLA on a CPU takes five times as long for an argmax."""
    return probs == jnp.max(probs, axis=-1, keepdims=True)
