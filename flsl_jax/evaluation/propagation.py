"""Label propagation through a video by the features of its frames (DINO's protocol; METHOD, "Evaluation")."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Array, Bool, Float, Int, UInt8

# Query patches are compared in tiles of so many rows and columns, each with the window that holds its neighbours.
_TILE = 16


@flax.struct.dataclass
class Context:
    """What labels are taken from: the first frame, in slot 0, and the last frames, in the order they overwrite.

    `features` l2-normalised; `labels` the share of each object and of the background (0) in each patch; `filled` says
    which slots hold a frame; `time` is the number of frames seen.
    """

    features: Float[Array, "S h w D"]
    labels: Float[Array, "S h w O"]
    filled: Bool[Array, " S"]
    time: Int[Array, ""]


def start(tokens: Float[Array, "h w D"], labels: Float[np.ndarray, "h w O"], *, context: int) -> Context:
    """The context that holds the first frame alone, with room for `context` others, so that its shape never changes."""
    room = ((0, context), (0, 0), (0, 0), (0, 0))
    return Context(
        features=jnp.pad(unit_vectors(tokens)[None], room),
        labels=jnp.pad(jnp.asarray(labels, jnp.float32)[None], room),
        filled=jnp.arange(1 + context) == 0,
        time=jnp.int32(1),
    )


@functools.partial(jax.jit, static_argnames=("radius", "top_k"), donate_argnames="context")
def follow(
    context: Context, tokens: Float[Array, "h w D"], *, radius: int, top_k: int, temp: float | Float[Array, ""]
) -> tuple[Context, Float[Array, "h w O"]]:
    """The labels of the next frame, and the context with it in the oldest one's place.

    Every patch takes the labels of the `top_k` most similar patches of the context, all its frames together, that lie at
    most `radius` rows and columns away (0: anywhere), weighted by exp(cos / `temp`) and divided by the weights' sum. Where
    several are as near as the last of them, all of those count, as in DINO's code. The N × N similarities of two frames
    are never held: a tile of 16×16 patches is compared with its own window at a time.
    """
    features = unit_vectors(tokens)
    labels = _windowed_read(features, context, radius=radius, top_k=top_k, temp=temp)
    room = context.filled.shape[0] - 1
    if room:
        slot = 1 + (context.time - 1) % room
        context = Context(
            features=context.features.at[slot].set(features),
            labels=context.labels.at[slot].set(labels),
            filled=context.filled.at[slot].set(True),
            time=context.time + 1,
        )
    return context, labels


class _Window(NamedTuple):
    """One axis of the keys of a tile of queries: how many there are, and of how many."""

    keys: int
    length: int
    radius: int

    def begin(self, tile: Array) -> Array:
        """First key of a tile, moved inwards at the ends so that the window never leaves the grid."""
        return jnp.clip(tile * _TILE - self.radius, 0, self.length - self.keys)

    def near(self, tile: Array) -> Bool[Array, "q k"]:
        """Which of the tile's queries and keys are at most the radius apart."""
        queries = tile * _TILE + jnp.arange(_TILE)
        keys = self.begin(tile) + jnp.arange(self.keys)
        return jnp.abs(queries[:, None] - keys[None]) <= self.radius


def _window(length: int, *, radius: int) -> _Window:
    radius = radius or length
    return _Window(keys=min(_TILE + 2 * radius, length), length=length, radius=radius)


def _windowed_read(
    features: Float[Array, "h w D"], context: Context, *, radius: int, top_k: int, temp: float | Float[Array, ""]
) -> Float[Array, "h w O"]:
    height, width, _ = features.shape
    down, right = _window(height, radius=radius), _window(width, radius=radius)
    tiles = -(-height // _TILE), -(-width // _TILE)
    padded = jnp.pad(features, ((0, tiles[0] * _TILE - height), (0, tiles[1] * _TILE - width), (0, 0)))

    def read(tile: Int[Array, "2"]) -> Float[Array, "T T O"]:
        queries = jax.lax.dynamic_slice(padded, (*(tile * _TILE), 0), (_TILE, _TILE, features.shape[-1]))
        corner = (0, down.begin(tile[0]), right.begin(tile[1]), 0)
        keys, labels = (
            jax.lax.dynamic_slice(array, corner, (array.shape[0], down.keys, right.keys, array.shape[-1]))
            for array in (context.features, context.labels)
        )
        near = down.near(tile[0])[:, None, :, None] & right.near(tile[1])[None, :, None, :]
        allowed = near[:, :, None] & context.filled[:, None, None]
        cosine = jnp.einsum("abd,sykd->absyk", queries, keys, precision="highest")
        cosine = jnp.where(allowed, cosine, -jnp.inf).reshape(_TILE * _TILE, -1)
        found = _read_nearest(cosine, labels.reshape(-1, labels.shape[-1]), top_k=top_k, temp=temp)
        return found.reshape(_TILE, _TILE, -1)

    numbers = jnp.stack(jnp.meshgrid(*map(jnp.arange, tiles), indexing="ij"), axis=-1).reshape(-1, 2)
    found = jax.lax.map(read, numbers).reshape(*tiles, _TILE, _TILE, -1)
    return found.swapaxes(1, 2).reshape(*padded.shape[:2], -1)[:height, :width]


def _read_nearest(
    cosine: Float[Array, "Q K"], labels: Float[Array, "K O"], *, top_k: int, temp: float | Float[Array, ""]
) -> Float[Array, "Q O"]:
    nearest, _ = jax.lax.top_k(cosine, min(top_k, cosine.shape[-1]))
    # Their places are known, but slices here would keep XLA from seeing a top-k above, which takes 50 times as long on a CPU.
    first, last = jnp.max(nearest, axis=-1, keepdims=True), jnp.min(nearest, axis=-1, keepdims=True)
    counted = (cosine >= last) & jnp.isfinite(cosine)
    weights = jnp.where(counted, jnp.exp((cosine - first) / temp), 0.0)
    # Rows and columns that only fill up the last tiles may have no key near.
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    return jnp.matmul(weights, labels, precision="highest") / total


def first_labels(mask: UInt8[np.ndarray, "H W"], *, grid: tuple[int, int], channels: int) -> Float[np.ndarray, "h w O"]:
    """One-hot labels of patches from the first frame's object ids, resized to the grid by the nearest pixel."""
    small = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST)
    return np.eye(channels, dtype=np.float32)[np.asarray(small)]


@functools.partial(jax.jit, static_argnames="patch_size")
def to_pixels(labels: Float[Array, "h w O"], *, patch_size: int) -> UInt8[Array, "H W"]:
    """The object of each pixel: labels up-sampled bilinearly, each stretched from 0 to 1, the largest one's number.

    A label that is the same everywhere counts as 1 where it is above 0; of equal ones the lowest number wins.
    """
    height, width, channels = labels.shape
    large = jax.image.resize(labels, (height * patch_size, width * patch_size, channels), "linear", antialias=False)
    low, high = large.min(axis=(0, 1)), large.max(axis=(0, 1))
    stretched = jnp.where(high > low, (large - low) / jnp.where(high > low, high - low, 1.0), high > 0)
    return jnp.argmax(stretched, axis=-1).astype(jnp.uint8)


def to_size(mask: UInt8[np.ndarray, "h w"], *, height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    """Object ids at another size, by the nearest pixel."""
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


@functools.partial(jax.jit, static_argnames=("height", "width"))
def resize_frames(
    frames: UInt8[np.ndarray, "b H W 3"] | UInt8[Array, "b H W 3"], *, height: int, width: int
) -> UInt8[Array, "b y x 3"]:
    """Frames resized bilinearly without antialiasing (as OpenCV does by default), rounded to whole grey levels."""
    shape = (frames.shape[0], height, width, 3)
    large = jax.image.resize(jnp.asarray(frames, jnp.float32), shape, "linear", antialias=False, precision="highest")
    return jnp.clip(jnp.round(large), 0, 255).astype(jnp.uint8)
