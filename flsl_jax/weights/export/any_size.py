"""A backbone as one function of images of any height and width, traced once: sizes are symbols while `jax.export` reads it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from flsl_jax.models import ViT
from flsl_jax.typing import Array, Float

# Sides of a grid: numbers, or symbols while a program is exported.
Grid = tuple[Any, Any]


class AnySizeViT(ViT):
    """A ViT that places its patches by operations on the device, as `models.position` does by matrices made on the host."""

    def _positions(self, grid: Grid) -> Float[Array, "h w D"]:
        arch = self.architecture
        rows, columns = _interpolations(arch.grid, grid, mode=arch.pos_resize)
        return jnp.einsum("yh,xw,hwd->yxd", rows, columns, self.pos_embed[...], precision="highest")

    def _rotation(self, grid: Grid) -> Float[Array, "2 N d"] | None:
        if not self.architecture.rope_periods:
            return None
        periods = np.asarray(self.architecture.rope_periods, np.float32)
        y, x = (2 * (jnp.arange(side, dtype=jnp.float32) + 0.5) / _value(side) - 1 for side in grid)
        quarter = len(periods)
        shape = (*grid, quarter)
        angles = [
            jnp.broadcast_to(2 * np.pi * places / periods, shape) for places in (y[:, None, None], x[None, :, None])
        ]
        flat = jnp.concatenate([*angles, *angles], axis=-1).reshape(-1, 4 * quarter)
        return jnp.stack([jnp.sin(flat), jnp.cos(flat)])


def _interpolations(old: tuple[int, int], new: Grid, *, mode: str) -> tuple[Array, Array]:
    """The matrices [new, old] of `position.resize_embedding` along both axes; the identity where the grid is the old one."""
    offset = jnp.float32(0)
    if mode == "bicubic_dino":  # the grid of the training is left as it is
        kept = (_value(new[0]) == old[0]) & (_value(new[1]) == old[1])
        offset = jnp.where(kept, 0.0, 0.1).astype(jnp.float32)
    antialias = mode == "bicubic_antialias"
    rows, columns = (_interpolation(*pair, offset=offset, antialias=antialias) for pair in zip(old, new))
    return rows, columns


def _interpolation(old: int, new: Any, *, offset: Array, antialias: bool) -> Float[Array, "new old"]:
    scale = old / (_value(new) + offset)
    centre = (jnp.arange(new, dtype=jnp.float32)[:, None] + 0.5) * scale - 0.5
    # Without antialiasing, places beyond an edge count as the edge, to which `fold` adds them.
    taps = np.arange(old) if antialias else np.arange(-2, old + 2)
    distance = jnp.abs(taps[None] - centre) / (jnp.maximum(scale, 1.0) if antialias else 1.0)
    fold = np.zeros((len(taps), old), np.float32)
    fold[np.arange(len(taps)), np.clip(taps, 0, old - 1)] = 1
    weights = jnp.matmul(_cubic(distance, a=-0.5 if antialias else -0.75), fold, precision="highest")
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _cubic(x: Array, *, a: float) -> Array:
    """Keys' cubic convolution kernel of distances."""
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0.0))


def _value(side: Any) -> Float[Array, ""]:
    """A side as a number on the device."""
    return jnp.asarray(side).astype(jnp.float32)
