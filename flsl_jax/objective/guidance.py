"""Attention by the features of an earlier model, for a second stage of training (docs/method.md, Second stage)."""

import jax

from flsl_jax.objective.checks import check_number
from flsl_jax.objective.mean_shift import mean_shift_weights
from flsl_jax.typing import Array, Float


def guided_weights(
    queries: Float[Array, "*b Q D"],
    tokens: Float[Array, "*b N D"],
    *,
    inv_temp: float | Float[Array, ""],
    sharpness: float | Float[Array, ""],
) -> Float[Array, "*b Q N"]:
    """Attention weights that an earlier model's features give: nearly equal for all tokens that belong to a query.

    The weights are `σ(sharpness · (a − 1/N))`, divided by their sum over the N tokens. Here `a = softmax(inv_temp · q Zᵀ)` is
    the attention, whose mean is 1/N. A high sharpness gives equal weights to all tokens above the mean and none to the
    others; as the sharpness goes to 0, all tokens get equal weights.

    Args:
        queries, tokens: the earlier model's features of the student's queries and of the teacher view.
        inv_temp: τ, which multiplies.
        sharpness: s, which multiplies; 10,000 in the release.

    Returns:
        weights that sum to 1 over the tokens, float32 (float64 for float64 input).

    Raises:
        ValueError: see `mean_shift_weights`; or the sharpness is not one number of 0 or more (checked unless traced).
    """
    check_number("sharpness", sharpness, low=0.0)
    attention = mean_shift_weights(queries, tokens, inv_temp=inv_temp)
    members = jax.nn.sigmoid(sharpness * (attention - 1.0 / tokens.shape[-2]))
    return members / members.sum(axis=-1, keepdims=True)
