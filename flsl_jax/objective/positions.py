"""Positives by position: the teacher's tokens at the places of the student's queries (paper, Sec. 4.2).

See docs/method.md, The objective, item 7.
"""

import jax.numpy as jnp

from flsl_jax.objective.checks import check_shape
from flsl_jax.objective.precision import at_least_float32, product
from flsl_jax.typing import Array, Float, Int


def query_positions(
    indices: Int[Array, "*b Q"], boxes: Float[Array, "*b 4"], *, grid: tuple[int, int]
) -> Float[Array, "*b Q 2"]:
    """The centres of the queries' patches in the teacher view, (y, x) as shares of its height and width.

    Args:
        indices: token indices in the student view; they run row by row.
        boxes: where the student view lies in the teacher view: (y0, x0, y1, x1) as shares of the latter's height and width.
        grid: the student view's height and width in tokens.

    Raises:
        ValueError: there is not one box for each view.
    """
    check_shape("boxes", boxes, (*indices.shape[:-1], 4), meaning="a box for each view")
    centres = jnp.stack([(indices // grid[1] + 0.5) / grid[0], (indices % grid[1] + 0.5) / grid[1]], axis=-1)
    corner, opposite = boxes[..., None, :2], boxes[..., None, 2:]
    return corner + centres * (opposite - corner)


def sample_tokens(
    tokens: Float[Array, "*b N D"], positions: Float[Array, "*b Q 2"], *, grid: tuple[int, int]
) -> Float[Array, "*b Q D"]:
    """Tokens interpolated at any positions: bilinear between the patches' centres, constant beyond the outermost centres.

    As `torch.nn.functional.grid_sample(align_corners=False, padding_mode="border")` does.

    Args:
        tokens: the tokens of one view, row by row.
        positions: (y, x) as shares of the view's height and width.
        grid: the view's height and width in tokens.

    Returns:
        tokens, float32 (float64 for float64 input).

    Raises:
        ValueError: the number of tokens is not that of the grid, or there are not positions (y, x) for each view.
    """
    check_shape(
        "positions",
        positions,
        (*tokens.shape[:-2], *positions.shape[-2:-1], 2),
        meaning="(y, x) of the queries of each view",
    )
    height, width = grid
    if tokens.shape[-2] != height * width:
        raise ValueError(f"there are {tokens.shape[-2]} tokens; a grid of {height}×{width} has {height * width}")
    vertical, horizontal = (_hats(positions[..., axis] * side, side) for axis, side in enumerate(grid))
    weights = vertical[..., :, None] * horizontal[..., None, :]
    tokens = at_least_float32(tokens)
    return product("...qn,...nd->...qd", weights.reshape(*weights.shape[:-2], -1).astype(tokens.dtype), tokens)


def _hats(place: Float[Array, "*b Q"], side: int) -> Float[Array, "*b Q side"]:
    """Linear weights of the patches along one axis; `place` is in patches, and patch i has its centre at i + 0.5."""
    nearest = jnp.clip(place - 0.5, 0, side - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(nearest[..., None] - jnp.arange(side)))
