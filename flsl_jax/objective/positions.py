"""Positives by place: the teacher's tokens where the student's queries lie (paper, Sec. 4.2; docs/method.md, The objective)."""

import jax.numpy as jnp

from flsl_jax.objective.precision import at_least_float32
from flsl_jax.typing import Array, Float, Int


def query_positions(
    indices: Int[Array, "*b Q"], boxes: Float[Array, "*b 4"], *, grid: tuple[int, int]
) -> Float[Array, "*b Q 2"]:
    """Centres of the queries' patches in the teacher view, (y, x) as shares of its height and width.

    Args:
        indices: token indices in the student view, row by row.
        boxes: where the student view lies in the teacher view: (y0, x0, y1, x1) as shares of its height and width.
        grid: the student view's height and width in tokens.
    """
    centres = jnp.stack([(indices // grid[1] + 0.5) / grid[0], (indices % grid[1] + 0.5) / grid[1]], axis=-1)
    corner, opposite = boxes[..., None, :2], boxes[..., None, 2:]
    return corner + centres * (opposite - corner)


def sample_tokens(
    tokens: Float[Array, "*b N D"], positions: Float[Array, "*b Q 2"], *, grid: tuple[int, int]
) -> Float[Array, "*b Q D"]:
    """Tokens at any positions, bilinear between the centres of the patches, constant beyond the outermost centres.

    As `torch.nn.functional.grid_sample(align_corners=False, padding_mode="border")`.

    Args:
        tokens: of one view, row by row.
        positions: (y, x) as shares of the view's height and width.
        grid: the view's height and width in tokens.

    Raises:
        ValueError: the tokens are not those of the grid.
    """
    height, width = grid
    if tokens.shape[-2] != height * width:
        raise ValueError(f"{tokens.shape[-2]} tokens are not those of a {height}×{width} grid")
    vertical, horizontal = (_hats(positions[..., axis] * side, side) for axis, side in enumerate(grid))
    weights = vertical[..., :, None] * horizontal[..., None, :]
    tokens = at_least_float32(tokens)
    return jnp.einsum("...qn,...nd->...qd", weights.reshape(*weights.shape[:-2], -1).astype(tokens.dtype), tokens)


def _hats(place: Float[Array, "*b Q"], side: int) -> Float[Array, "*b Q side"]:
    """Linear weights of the patches along one axis; `place` in patches, where patch i has its centre at i + 0.5."""
    nearest = jnp.clip(place - 0.5, 0, side - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(nearest[..., None] - jnp.arange(side)))
