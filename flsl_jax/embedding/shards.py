"""The features of one shard of images as arrays."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.data.images.decode import DecodeError, pixels_of
from flsl_jax.data.records import Source, name_of
from flsl_jax.embedding.settings import EmbedSettings
from flsl_jax.errors import one_line
from flsl_jax.evaluation.batches import images_at_once
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.evaluation.reading import computed_ahead
from flsl_jax.features import Fit
from flsl_jax.features.backbone import modes_of
from flsl_jax.features.batching import map_by_shape
from flsl_jax.typing import Array, Float

_AHEAD = 64


@dataclasses.dataclass(frozen=True)
class Shard:
    """Features of I images with R patches and C clusters in all.

    `images`: `name` [I] (text), `width` and `height` int32 [I] of the upright original in pixels, `rows` and `columns` int32
    [I] of its grid, and `mean` [I, D]. `patches`: `image` int32 [R] (the image's place in the shard), `row` and `column` int32
    [R], `box` float32 [R, 4] (left, top, right, bottom in pixels of the original), `patch` and `mode` [R, D], `cluster` int32
    [R]. `clusters`: `image`, `cluster` int32 [C], `patches` int32 [C] (how many), `box` float32 [C, 4] around them, `mean`
    [C, D]. What is not asked for is absent. `left_out`: names of images that cannot be read, each with the reason.
    """

    images: dict[str, np.ndarray]
    patches: dict[str, np.ndarray]
    clusters: dict[str, np.ndarray]
    left_out: tuple[tuple[str, str], ...]

    @property
    def tables(self) -> dict[str, dict[str, np.ndarray]]:
        """The tables that hold something, by name."""
        all_tables = {"images": self.images, "patches": self.patches, "clusters": self.clusters}
        return {name: table for name, table in all_tables.items() if table}


@dataclasses.dataclass(frozen=True)
class _Read:
    """An image that was read: its levels as the encoder takes them, how much of each patch is image, and where it is from."""

    name: str
    height: int
    width: int
    levels: np.ndarray
    shares: np.ndarray
    boxes: np.ndarray


def embed_shard(
    encoder: Encoder,
    source: Source,
    indices: range,
    settings: EmbedSettings,
    *,
    batch_size: int,
    advance: Callable[[], object],
) -> Shard:
    """Reads and encodes some images of a source.

    Args:
        encoder: of the features.
        source: read from several threads.
        indices: of the images.
        settings: which features, and of what size.
        batch_size: images of the training size computed at a time; larger ones are fewer.
        advance: called after each image that was encoded or left out.
    """
    fit = fit_of(encoder, settings)
    read: list[_Read] = []
    left_out: list[tuple[str, str]] = []

    def images() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for found in computed_ahead(lambda index: _read(source, index, fit, encoder), indices, ahead=_AHEAD):
            if isinstance(found, _Read):
                # The levels are let go once they are encoded.
                read.append(dataclasses.replace(found, levels=found.levels[:0]))
                yield found.levels, found.shares
            else:
                left_out.append(found)
                advance()

    def encode(levels: np.ndarray, shares: np.ndarray) -> dict[str, Array]:
        tokens = encoder.tokens(levels)
        result = {"mean": _weighted_mean(tokens, shares)} if "mean" in settings.features else {}
        if {"patch", "cluster"} & set(settings.features):
            result["patch"] = tokens
        if "mode" in settings.features:
            result["mode"] = modes_of(tokens, inv_temp=settings.inv_temp or encoder.inv_temp)
        return result

    computed = map_by_shape(
        encode,
        images(),
        batch_size=lambda shape: images_at_once(encoder, size=(shape[0], shape[1]), batch_size=batch_size),
        devices=jax.local_device_count(),
    )
    results = [result for _, result in sorted(_counted(computed, advance), key=lambda item: item[0])]
    return _gathered(read, results, settings, left_out=tuple(left_out))


def _counted(items: Iterable[tuple[int, Any]], advance: Callable[[], object]) -> Iterator[tuple[int, Any]]:
    for item in items:
        advance()
        yield item


def fit_of(encoder: Encoder, settings: EmbedSettings) -> Fit:
    """How images are resized.

    Raises:
        UserError: the crop does not fit the model's patch.
    """
    return Fit(patch_size=encoder.patch_size, size=settings.size or encoder.image_size, crop=settings.crop)


def _read(source: Source, index: int, fit: Fit, encoder: Encoder) -> _Read | tuple[str, str]:
    """An image as the encoder takes it; or its name, and why it cannot be read."""
    try:
        record = source[index]
        pixels = pixels_of(record.image, name=record.name, decoding=encoder.decoding, page=record.page)
    except (DecodeError, OSError) as error:
        return one_line(name_of(source, index)), one_line(str(error))
    height, width = pixels.shape[:2]
    inner, (rows, columns) = fit.image(pixels), fit.padded_size(height, width)
    levels = inner
    if not fit.crop:  # in one dtype, whether it needs padding or not, so that one program serves both
        levels = np.empty((rows, columns, inner.shape[-1]), np.float32)
        levels[:] = encoder.blank
        levels[: inner.shape[0], : inner.shape[1]] = inner
    shares = _visible(inner.shape[0], rows, fit.patch_size)[:, None] * _visible(inner.shape[1], columns, fit.patch_size)
    boxes = fit.patch_boxes(height, width)
    return _Read(record.name, height, width, levels, shares.astype(np.float32), boxes)


def _visible(inner: int, padded: int, patch: int) -> np.ndarray:
    """Which share of each patch along one side is not padding."""
    return np.clip((inner - np.arange(0, padded, patch)) / patch, 0, 1)


@jax.jit
def _weighted_mean(tokens: Float[Array, "b h w D"], shares: Float[Array, "b h w"]) -> Float[Array, "b D"]:
    total = jnp.einsum("bhwd,bhw->bd", tokens, jnp.asarray(shares), precision="highest")
    return total / jnp.sum(jnp.asarray(shares), axis=(1, 2))[:, None]


def _gathered(
    read: list[_Read], results: list[dict[str, np.ndarray]], settings: EmbedSettings, *, left_out: Any
) -> Shard:
    grids = [image.boxes.shape[:2] for image in read]
    images = {
        "name": np.array([_as_unicode(image.name) for image in read], np.str_),
        "width": np.array([image.width for image in read], np.int32),
        "height": np.array([image.height for image in read], np.int32),
        "rows": np.array([grid[0] for grid in grids], np.int32),
        "columns": np.array([grid[1] for grid in grids], np.int32),
    }
    if not read:
        return Shard({}, {}, {}, left_out)
    if "mean" in settings.features:
        images["mean"] = np.stack([result["mean"] for result in results]).astype(settings.dtype)
    if not settings.of_patches:
        return Shard(images, {}, {}, left_out)
    places = [np.indices(grid, np.int32).reshape(2, -1) for grid in grids]
    counts = [rows * columns for rows, columns in grids]
    patches = {
        "image": np.repeat(np.arange(len(read), dtype=np.int32), counts),
        "row": np.concatenate([place[0] for place in places]),
        "column": np.concatenate([place[1] for place in places]),
        "box": np.concatenate([image.boxes.reshape(-1, 4) for image in read]),
    }
    for name in ("patch", "mode"):
        if name in settings.features:
            rows = (result[name].reshape(-1, result[name].shape[-1]) for result in results)
            patches[name] = np.concatenate(list(rows)).astype(settings.dtype)
    if "cluster" not in settings.features:
        return Shard(images, patches, {}, left_out)
    tokens = [result["patch"] for result in results]
    found = list(computed_ahead(functools.partial(_clusters, settings=settings), tokens, ahead=_AHEAD))
    patches["cluster"] = np.concatenate([numbers.reshape(-1) for numbers in found])
    parts = [_described(*pair, image) for pair, image in zip(zip(found, tokens), read)]
    clusters = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    sizes = [len(part["cluster"]) for part in parts]
    clusters = {"image": np.repeat(np.arange(len(read), dtype=np.int32), sizes), **clusters}
    clusters["mean"] = clusters["mean"].astype(settings.dtype)
    return Shard(images, patches, clusters, left_out)


def _as_unicode(name: str) -> str:
    """A file's name, with a replacement for bytes that are no text."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _clusters(tokens: np.ndarray, *, settings: EmbedSettings) -> np.ndarray:
    return mode_clusters(tokens, inv_temp=settings.cluster_inv_temp, similarity=settings.mode_similarity)


def _described(numbers: np.ndarray, tokens: np.ndarray, image: _Read) -> dict[str, np.ndarray]:
    """The clusters of one image: how many patches, the box around them, and the mean of their tokens."""
    names, shares = numbers.reshape(-1), image.shares.reshape(-1)
    count = int(names.max()) + 1
    weights = np.zeros((count, len(names)), np.float32)
    weights[names, np.arange(len(names))] = shares
    boxes = image.boxes.reshape(-1, 4)
    corners = np.empty((count, 4), np.float32)
    corners[:, :2], corners[:, 2:] = np.inf, -np.inf
    np.minimum.at(corners[:, :2], names, boxes[:, :2])
    np.maximum.at(corners[:, 2:], names, boxes[:, 2:])
    return {
        "cluster": np.arange(count, dtype=np.int32),
        "patches": np.bincount(names).astype(np.int32),
        "box": corners,
        "mean": weights @ tokens.reshape(len(names), -1) / weights.sum(axis=1, keepdims=True),
    }
