"""Bbox-aligned k-NN (paper, Appendix F; METHOD, "Evaluation"): how well single patch features tell objects apart."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.decode import decode_image
from flsl_jax.data.sources import Source
from flsl_jax.errors import UserError
from flsl_jax.typing import Array, Float, Int

POINTS = 9
# Rows of queries and of the bank that are compared at a time; bounds memory, changes no result.
_QUERY_BLOCK, _BANK_BLOCK = 1024, 16384

EncodeTokens = Callable[[np.ndarray], Array]


@dataclasses.dataclass(frozen=True)
class KnnData:
    """Images ready for the network, with what the protocol needs of their boxes.

    `images` uint8 [I, s, s, 3]; `patches` int32 [I, 9] flat token indices; `labels` int32 [I].
    """

    images: np.ndarray
    patches: np.ndarray
    labels: np.ndarray
    num_classes: int


@dataclasses.dataclass(frozen=True)
class BboxKnnResult:
    """Shares of 0 to 1. `any`: images of which any of the 9 tokens votes right, the paper's number. `majority`: images
    of which most tokens vote right, `token`: tokens that vote right."""

    any: float
    majority: float
    token: float


def prepare_knn(source: Source, *, size: int, patch_size: int) -> KnnData:
    """Reads every image that has boxes: short side to `size`, central square, boxes through the same transform.

    Of each image's boxes the largest after the transform; in it the centres of a 3×3 grid of equal cells; for each
    the patch whose centre is nearest, which is the patch it lies in (at a border between two, the right or lower one).

    Raises:
        UserError: no image of the source has a box.
    """
    transform, grid = ResizeCrop(size), size // patch_size
    images, patches, labels = [], [], []
    for index in range(len(source)):
        record = source[index]
        if record.boxes is None or not record.boxes.labels.size:
            continue
        pixels = record.image
        if not isinstance(pixels, np.ndarray):
            pixels = decode_image(pixels, name=record.name)
        boxes = transform.boxes(record.boxes, width=pixels.shape[1], height=pixels.shape[0])
        if not boxes.labels.size:
            continue
        largest = int(np.argmax(boxes.areas()))
        images.append(transform.image(pixels))
        patches.append(box_patches(boxes.xyxy[largest], patch_size=patch_size, grid=grid))
        labels.append(boxes.labels[largest])
    if not images:
        raise UserError(f"{source.name}: no image has a box, which the bbox-aligned k-NN needs; set its boxes")
    return KnnData(
        images=np.stack(images),
        patches=np.stack(patches),
        labels=np.array(labels, np.int32),
        num_classes=len(source.class_names),
    )


def box_patches(box: Float[np.ndarray, "4"], *, patch_size: int, grid: int) -> Int[np.ndarray, "9"]:
    """Flat indices of the 9 patches of a box (x0, y0, x1, y1) in a square grid; a small box repeats patches."""
    shares = (np.arange(3) + 0.5) / 3
    columns = (box[0] + shares * (box[2] - box[0])) // patch_size
    rows = (box[1] + shares * (box[3] - box[1])) // patch_size
    columns, rows = (np.clip(places, 0, grid - 1).astype(np.int32) for places in (columns, rows))
    return (rows[:, None] * grid + columns[None, :]).reshape(-1)


def box_tokens(data: KnnData, encode: EncodeTokens, *, batch_size: int) -> Float[np.ndarray, "I P D"]:
    """The 9 tokens of every image, l2-normalised.

    Args:
        data: prepared images.
        encode: maps uint8 images [b, s, s, 3] to tokens [b, N, D]; every call gets `batch_size` images.
        batch_size: images a call; the last batch is filled up with copies that are dropped again.
    """
    chosen = []
    for images, patches, count in _batches(data, batch_size):
        tokens = jnp.take_along_axis(encode(images), patches[..., None], axis=1).astype(jnp.float32)
        tokens = tokens * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(tokens), axis=-1, keepdims=True), 1e-24))
        chosen.append(np.asarray(tokens[:count]))
    return np.concatenate(chosen)


def _batches(data: KnnData, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    for start in range(0, len(data.images), batch_size):
        rows = np.arange(start, start + batch_size)
        count = min(batch_size, len(data.images) - start)
        rows = np.minimum(rows, len(data.images) - 1)
        yield data.images[rows], data.patches[rows], count


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _block_votes(
    queries: Float[Array, "q D"],
    bank: Float[Array, "c m D"],
    labels: Int[Array, "c m"],
    *,
    k: int,
    temp: float,
    num_classes: int,
) -> Int[Array, " q"]:
    """Predictions for one block of queries, the bank in c blocks with a running top-k. Labels below 0 are padding."""

    def merge(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        features, block_labels = block
        cosine = jnp.matmul(queries, features.T, precision="highest")
        cosine = jnp.where(block_labels >= 0, cosine, -jnp.inf)
        scores = jnp.concatenate([best[0], cosine], axis=1)
        names = jnp.concatenate([best[1], jnp.broadcast_to(block_labels, cosine.shape)], axis=1)
        top, places = jax.lax.top_k(scores, k)
        return (top, jnp.take_along_axis(names, places, axis=1)), None

    start = (jnp.full((queries.shape[0], k), -jnp.inf), jnp.full((queries.shape[0], k), -1, labels.dtype))
    (cosine, names), _ = jax.lax.scan(merge, start, (bank, labels))
    # Relative to the largest possible weight, exp(1 / temp): the votes stay the same and cannot overflow.
    weights = jnp.where(names >= 0, jnp.exp((cosine - 1.0) / temp), 0.0)
    votes = jnp.sum(weights[..., None] * jax.nn.one_hot(names, num_classes), axis=1)
    return jnp.argmax(votes, axis=-1)


def knn_classify(
    queries: Float[np.ndarray, "Q D"],
    bank: Float[np.ndarray, "M D"],
    labels: Int[np.ndarray, " M"],
    *,
    k: int,
    temp: float,
    num_classes: int,
    query_block: int = _QUERY_BLOCK,
    bank_block: int = _BANK_BLOCK,
) -> Int[np.ndarray, " Q"]:
    """Exact weighted k-NN: the class with the largest sum of exp(cos / temp) among the k nearest of the bank.

    Args:
        queries, bank: l2-normalised features.
        labels: of the bank, 0 to `num_classes` - 1.
        k: neighbours; all of the bank where it is smaller.
        temp: divides the cosine.
        num_classes: number of classes.
        query_block, bank_block: rows compared at a time.
    """
    k, bank_block = min(k, len(bank)), min(bank_block, len(bank))
    blocks = -(-len(bank) // bank_block)
    padding = blocks * bank_block - len(bank)
    bank = np.pad(bank, ((0, padding), (0, 0))).reshape(blocks, bank_block, -1)
    labels = np.pad(labels.astype(np.int32), (0, padding), constant_values=-1).reshape(blocks, bank_block)
    device_bank, device_labels = jax.device_put((bank, labels))
    query_block = min(query_block, len(queries))
    votes = []
    for start in range(0, len(queries), query_block):
        rows = np.minimum(np.arange(start, start + query_block), len(queries) - 1)
        block = _block_votes(queries[rows], device_bank, device_labels, k=k, temp=temp, num_classes=num_classes)
        votes.append(np.asarray(block)[: len(queries) - start])
    return np.concatenate(votes)


def evaluate_bbox_knn(
    train: KnnData,
    val: KnnData,
    encode: EncodeTokens,
    *,
    batch_size: int = 256,
    k: int = 20,
    k_scale: int = 7,
    temp: float = 0.07,
) -> BboxKnnResult:
    """The protocol: train images' tokens as bank, each val token classified by its k · k_scale nearest neighbours.

    Args:
        train, val: from `prepare_knn`.
        encode: maps uint8 images [b, s, s, 3] to tokens [b, N, D].
        batch_size: images encoded at a time.
        k: the paper's k; k_scale: 7 there, hence 140 neighbours.
        temp: divides the cosines.
    """
    bank = box_tokens(train, encode, batch_size=batch_size).reshape(len(train.images) * POINTS, -1)
    queries = box_tokens(val, encode, batch_size=batch_size).reshape(len(val.images) * POINTS, -1)
    votes = knn_classify(
        queries,
        bank,
        np.repeat(train.labels, POINTS),
        k=k * k_scale,
        temp=temp,
        num_classes=max(train.num_classes, val.num_classes),
    )
    right = votes.reshape(-1, POINTS) == val.labels[:, None]
    return BboxKnnResult(
        any=float(right.any(axis=1).mean()),
        majority=float((right.sum(axis=1) > POINTS // 2).mean()),
        token=float(right.mean()),
    )


def pixel_tokens(images: np.ndarray, *, patch_size: int) -> Float[Array, "b N E"]:
    """Raw pixels as tokens, the baseline: each patch's levels less 0.5, flattened."""
    batch, height, width, _ = images.shape
    levels = jnp.asarray(images, jnp.float32) / 255.0 - 0.5
    grid = (height // patch_size, width // patch_size)
    levels = levels.reshape(batch, grid[0], patch_size, grid[1], patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    return levels.reshape(batch, grid[0] * grid[1], -1)
