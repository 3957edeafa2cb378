"""Attention by the features of an earlier model: the second stage of the release (docs/method.md, Second stage)."""

import jax

from flsl_jax.objective.mean_shift import mean_shift_weights
from flsl_jax.typing import Array, Float


def guided_weights(
    queries: Float[Array, "*b Q D"],
    tokens: Float[Array, "*b N D"],
    *,
    inv_temp: float | Float[Array, ""],
    sharpness: float | Float[Array, ""],
) -> Float[Array, "*b Q N"]:
    """Which tokens belong with each query by an earlier model's features: a nearly even share for each that does.

    With the attention `a = softmax(inv_temp · q Zᵀ)`, whose mean over the N tokens is 1/N, it is
    `σ(sharpness · (a − 1/N))`, divided by its sum over the tokens. A high sharpness makes all tokens above the mean alike
    and leaves the others out; as it goes to 0 all tokens become alike.

    Args:
        queries, tokens: the earlier model's features of the student's queries and of the teacher view.
        inv_temp: τ, which multiplies.
        sharpness: s, which multiplies; 10,000 in the release.

    Returns:
        weights that sum to 1 over the tokens, float32 (float64 for float64 input).

    Raises:
        ValueError: queries and tokens differ in channels or leading axes.
    """
    attention = mean_shift_weights(queries, tokens, inv_temp=inv_temp)
    members = jax.nn.sigmoid(sharpness * (attention - 1.0 / tokens.shape[-2]))
    return members / members.sum(axis=-1, keepdims=True)
