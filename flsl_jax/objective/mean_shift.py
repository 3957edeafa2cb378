"""Mean-shift as attention without parameters (paper, Eq. 4 and 12; docs/method.md, The objective)."""

import jax

from flsl_jax.objective.checks import check_number
from flsl_jax.objective.precision import at_least_float32, product
from flsl_jax.typing import Array, Float


def mean_shift_weights(
    queries: Float[Array, "*b Q D"], tokens: Float[Array, "*b N D"], *, inv_temp: float | Float[Array, ""]
) -> Float[Array, "*b Q N"]:
    """`softmax(inv_temp · q Zᵀ)` over the tokens: how strongly each token pulls on each query.

    Args:
        queries: raw queries z.
        tokens: all tokens Z of one view.
        inv_temp: τ of Eq. 4, which multiplies; 0 or more.

    Returns:
        weights that sum to 1 over the tokens, float32 (float64 for float64 input).

    Raises:
        ValueError: queries and tokens differ in channels or leading axes, or have fewer than two axes; or τ is not one number
            of 0 or more (its value is checked unless traced).
    """
    if queries.ndim < 2 or queries.ndim != tokens.ndim or _without_count(queries) != _without_count(tokens):
        raise ValueError(
            f"queries {queries.shape} and tokens {tokens.shape} must agree in all axes except the last but one"
        )
    check_number("inv_temp", inv_temp, low=0.0)
    queries, tokens = at_least_float32(queries), at_least_float32(tokens)
    return jax.nn.softmax(inv_temp * product("...qd,...nd->...qn", queries, tokens), axis=-1)


def mean_shift(
    queries: Float[Array, "*b Q D"], tokens: Float[Array, "*b N D"], *, inv_temp: float | Float[Array, ""]
) -> Float[Array, "*b Q D"]:
    """One mean-shift step, `ẑ = softmax(τ z Zᵀ) Z` (Eq. 4): the mode of each query among the tokens.

    There are no projections, no skip connection and no normalisation. With the tokens of the same view, this is the paper's
    self-attention; with those of the teacher view, it is the cross-attention that gives the positive modes (Eq. 12).

    Args:
        queries: raw queries z.
        tokens: all tokens Z of one view.
        inv_temp: τ, which multiplies.

    Returns:
        modes, float32 (float64 for float64 input).

    Raises:
        ValueError: see `mean_shift_weights`.
    """
    weights = mean_shift_weights(queries, tokens, inv_temp=inv_temp)
    return product("...qn,...nd->...qd", weights, at_least_float32(tokens))


def _without_count(x: Float[Array, "*b N D"]) -> tuple[int, ...]:
    return (*x.shape[:-2], x.shape[-1])
