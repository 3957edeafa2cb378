"""Random pooling: one query per window of the token grid (paper, Table 12; docs/method.md, Query sampling)."""

import jax
import jax.numpy as jnp

from flsl_jax.objective.checks import check_shape
from flsl_jax.typing import Array, Float, Int, PRNGKeyArray


def num_queries(grid: tuple[int, int], *, window: int) -> int:
    """How many queries a view has: the number of whole windows that fit into the grid.

    Args:
        grid: height and width in tokens.
        window: side of a window in tokens.

    Raises:
        ValueError: not even one window fits into the grid.
    """
    if not 1 <= window <= min(grid):
        raise ValueError(f"a window of {window}×{window} tokens does not fit the {grid[0]}×{grid[1]} grid")
    return (grid[0] // window) * (grid[1] // window)


def sample_queries(key: PRNGKeyArray, *, grid: tuple[int, int], window: int, random: bool = True) -> Int[Array, " Q"]:
    """One token index for each window of one view. For several views, map it over them with a key for each.

    If the window does not divide the grid, the largest area of whole windows lies in one of the grid's four corners, drawn
    uniformly.

    Args:
        key: this view's key.
        grid: height and width in tokens; indices run row by row.
        window: side of a window in tokens.
        random: True draws a token of each window uniformly (the paper); False takes the first of each (the release's
            default). The corner is the same in both cases.

    Raises:
        ValueError: not even one window fits into the grid.
    """
    num_queries(grid, window=window)
    rows, columns = grid[0] // window, grid[1] // window
    corner_key, inside_key = jax.random.split(key)
    corner = jax.random.randint(corner_key, (2,), 0, 2)
    inside = jnp.zeros((2, rows, columns), jnp.int32)
    if random:
        inside = jax.random.randint(inside_key, (2, rows, columns), 0, window)
    y = corner[0] * (grid[0] - rows * window) + jnp.arange(rows)[:, None] * window + inside[0]
    x = corner[1] * (grid[1] - columns * window) + jnp.arange(columns)[None, :] * window + inside[1]
    return (y * grid[1] + x).reshape(-1)


def gather_tokens(tokens: Float[Array, "*b N D"], indices: Int[Array, "*b Q"]) -> Float[Array, "*b Q D"]:
    """The tokens at the indices, separately for each image.

    Raises:
        ValueError: there are not indices for each image.
    """
    check_shape(
        "indices",
        indices,
        (*tokens.shape[:-2], *indices.shape[-1:]),
        meaning="the indices of the queries of each image",
    )
    return jnp.take_along_axis(tokens, indices[..., None], axis=-2)
