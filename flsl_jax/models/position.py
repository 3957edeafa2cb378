"""Positions: the fixed sin-cos embedding, resizing an embedding to another grid of tokens, and rotary positions."""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np

from flsl_jax.typing import Array, Float

PosResize = Literal["bicubic", "bicubic_antialias", "bicubic_dino"]


def sincos_embedding(*, grid: tuple[int, int], width: int) -> Float[np.ndarray, "h w D"]:
    """Fixed 2-D sin-cos embedding in MoCo v3's layout: a quarter of the channels each for sin x, cos x, sin y, cos y.

    Frequencies are 10000^(-i / (D/4)); coordinates are token indices.

    Raises:
        ValueError: `width` is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"width is {width}; a sin-cos position embedding needs a multiple of 4")
    frequency = 10000.0 ** -(np.arange(width // 4) / (width // 4))
    y, x = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    x, y = x[..., None] * frequency, y[..., None] * frequency
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=-1).astype(np.float32)


def rotation(*, grid: tuple[int, int], periods: tuple[float, ...]) -> Float[np.ndarray, "2 N d"]:
    """Sine and cosine of the angles by which the N = h·w patches turn their queries and keys, row by row, as in DINOv3.

    Coordinates are those of the patches' centres, from -1 at one edge of the image to 1 at the other, along y and along x. The
    angle is 2π times the coordinate over the period; of the d channels, the first quarter has those of y, the second those of
    x, and the second half the same again. The size of the image in pixels does not matter.

    Args:
        grid: h and w.
        periods: d / 4 of them.
    """
    y, x = (2 * (np.arange(side) + 0.5) / side - 1 for side in grid)
    coordinates = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
    angles = 2 * np.pi * coordinates[:, :, None] / np.asarray(periods)
    angles = np.tile(angles.reshape(len(coordinates), -1), 2)
    return np.stack([np.sin(angles), np.cos(angles)]).astype(np.float32)


def turned(x: Float[Array, "B M heads d"], turn: Float[np.ndarray, "2 N d"]) -> Float[Array, "B M heads d"]:
    """Queries or keys turned by `rotation`, computed in float32; the M - N tokens before the patches stay as they are."""
    patches = x[:, x.shape[1] - turn.shape[1] :]
    first, second = jnp.split(patches.astype(jnp.float32), 2, axis=-1)
    sine, cosine = jnp.asarray(turn)[:, None, :, None]
    across = jnp.concatenate([-second, first], axis=-1)
    placed = jnp.concatenate([first, second], axis=-1) * cosine + across * sine
    return jnp.concatenate([x[:, : x.shape[1] - turn.shape[1]], placed.astype(x.dtype)], axis=1)


def resize_embedding(
    embedding: Float[Array, "h w D"], *, grid: tuple[int, int], mode: PosResize
) -> Float[Array, "g k D"]:
    """The embedding interpolated to another grid; if the grid does not change, the same array.

    Args:
        embedding: the embedding at the grid it was trained on.
        grid: the new height and width in tokens.
        mode: "bicubic": a = −0.75, edges clamped, no antialiasing, as `torch.nn.functional.interpolate(mode="bicubic")`
            in the detectors. "bicubic_antialias": a = −0.5, with a wider kernel when the grid shrinks, as with
            `antialias=True` in timm. "bicubic_dino": as "bicubic", but with the scale (new + 0.1) / old, which DINO and
            DINOv2 give to torch as `scale_factor`. All with half-pixel centres (`align_corners=False`).
    """
    if embedding.shape[:2] == grid:
        return embedding
    rows, columns = (_weights(old, new, mode) for old, new in zip(embedding.shape[:2], grid))
    return jnp.einsum("yh,xw,hwd->yxd", rows, columns, embedding, precision="highest")


@functools.lru_cache(maxsize=64)
def _weights(old: int, new: int, mode: PosResize) -> Float[np.ndarray, "new old"]:
    """The interpolation along one axis as a matrix."""
    scale = old / (new + 0.1 if mode == "bicubic_dino" else new)
    antialias = mode == "bicubic_antialias"
    stretch = max(scale, 1.0) if antialias else 1.0
    center = (np.arange(new) + 0.5) * scale - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    taps = np.floor(center)[:, None] + np.arange(-reach, reach + 1)
    values = _cubic((taps - center[:, None]) / stretch, a=-0.5 if antialias else -0.75)
    if antialias:
        values = np.where((taps >= 0) & (taps < old), values, 0.0)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), values)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _cubic(x: np.ndarray, *, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
