"""Label propagation through a video by the features of its frames (docs/protocols.md, "Video label propagation")."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Array, Bool, Float, Int, UInt8

# Query patches are compared in square tiles of this many rows and columns, each with the window of its neighbours.
_TILE = 16


@flax.struct.dataclass
class Context:
    """The frames that labels are taken from: the first one in slot 0, the latest ones in the other slots, in turn.

    `features`: l2-normalised. `labels`: for each patch the share of the background (0) and of each object. `filled`: which
    slots hold a frame. `time`: the number of frames so far.
    """

    features: Float[Array, "S h w D"]
    labels: Float[Array, "S h w O"]
    filled: Bool[Array, " S"]
    time: Int[Array, ""]


def start(tokens: Float[Array, "h w D"], labels: Float[np.ndarray, "h w O"], *, context: int) -> Context:
    """A context that holds the first frame alone; it has room for `context` others, so that its shape never changes."""
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
    """The labels of the next frame, and the context in which it replaces the oldest frame but the first.

    Each patch takes the labels of the `top_k` most similar patches among all frames of the context that lie at most `radius`
    rows and columns away (0: anywhere), weighted by exp(cos / `temp`) and divided by the sum of the weights. Where several
    patches are as near as the last of these, all of them count, as in DINO's code. The N × N similarities of two frames are
    never in memory at once: one tile of 16 × 16 patches is compared with its window at a time.
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
    """The keys of a tile of queries along one axis: `keys` of `length` rows or columns, at most `radius` away."""

    keys: int
    length: int
    radius: int

    def begin(self, tile: Array) -> Array:
        """The first key of a tile; at the borders the window is moved inwards, so that it never leaves the grid."""
        return jnp.clip(tile * _TILE - self.radius, 0, self.length - self.keys)

    def near(self, tile: Array) -> Bool[Array, "q k"]:
        """Which pairs of the tile's queries and keys are at most the radius apart."""
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
    # Their places are known, but slices here would hide the top-k above from XLA: it would take 50 times as long on a CPU.
    first, last = jnp.max(nearest, axis=-1, keepdims=True), jnp.min(nearest, axis=-1, keepdims=True)
    counted = (cosine >= last) & jnp.isfinite(cosine)
    weights = jnp.where(counted, jnp.exp((cosine - first) / temp), 0.0)
    # Rows and columns that only fill up the last tiles may have no near key.
    total = jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1.0)
    return jnp.matmul(weights, labels, precision="highest") / total


def first_labels(mask: UInt8[np.ndarray, "H W"], *, grid: tuple[int, int], channels: int) -> Float[np.ndarray, "h w O"]:
    """One-hot labels of the patches, from the first frame's object ids at the nearest pixel."""
    small = Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST)
    return np.eye(channels, dtype=np.float32)[np.asarray(small)]


@functools.partial(jax.jit, static_argnames="patch_size")
def to_pixels(labels: Float[Array, "h w O"], *, patch_size: int) -> UInt8[Array, "H W"]:
    """The object id of each pixel: labels are interpolated bilinearly and each stretched to 0 to 1; the largest one wins.

    A label that has one value everywhere counts as 1 if that is above 0. Of equal labels the lowest number wins.
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
    frames: UInt8[np.ndarray, "b H W C"] | UInt8[Array, "b H W C"], *, height: int, width: int
) -> UInt8[Array, "b y x C"]:
    """Frames resized bilinearly without antialiasing, as by OpenCV's default, and rounded to whole levels."""
    shape, precision = (frames.shape[0], height, width, frames.shape[-1]), jax.lax.Precision.HIGHEST
    large = jax.image.resize(jnp.asarray(frames, jnp.float32), shape, "linear", antialias=False, precision=precision)
    return jnp.clip(jnp.round(large), 0, 255).astype(jnp.uint8)
