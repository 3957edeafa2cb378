"""Bbox-aligned k-NN (paper, Appendix F; METHOD, "Evaluation"): how well single patch features tell objects apart."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Sharding

from flsl_jax.config import BboxKnnConfig
from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.decode import DecodeError, decode_image
from flsl_jax.data.sources import Record, Source, open_source
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.features import map_batches
from flsl_jax.evaluation.scores import Scores
from flsl_jax.objective import gather_tokens, mean_shift
from flsl_jax.typing import Array, Float, Int, UInt8

POINTS = 9
# Rows of queries and of the bank that are compared at a time; bounds memory, changes no result.
_QUERY_BLOCK, _BANK_BLOCK = 1024, 16384
# Records that are read before they are decoded together, by so many threads.
_READ_AHEAD, _THREADS = 256, 8
# Annotations may be a pixel off by their rounding; further outside, they belong to another size of the image.
_OUTSIDE_PIXELS = 1.5

EncodeTokens = Callable[[np.ndarray | Array], Array]


@dataclasses.dataclass(frozen=True)
class KnnData:
    """Images ready for the network, with what the protocol needs of their boxes.

    `images` [I, s, s, 3]; `patches` flat token indices; `labels` of the largest boxes, named by `class_names` (empty
    where the source has no names).
    """

    images: UInt8[np.ndarray, "I s s 3"]
    patches: Int[np.ndarray, "I 9"]
    labels: Int[np.ndarray, " I"]
    class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class BboxKnnResult:
    """Shares of 0 to 1. `any`: images of which any of the 9 tokens votes right, the paper's number. `majority`: images
    of which most tokens vote right, `token`: tokens that vote right.

    Nine tries make `any` large by chance: C equally frequent classes give up to 1 - (1 - 1/C)⁹ without any knowledge
    (0.70 for 8). Read it beside `token`, whose chance is 1/C.
    """

    any: float
    majority: float
    token: float


@dataclasses.dataclass(frozen=True)
class TokenModeResult:
    """The protocol on tokens Z and on their modes Ẑ."""

    tokens: BboxKnnResult
    modes: BboxKnnResult


@flax.struct.dataclass
class BoxFeatures:
    """The 9 features of every image's box, l2-normalised float32: tokens [I, 9, D], and modes alike or None."""

    tokens: Array | np.ndarray
    modes: Array | np.ndarray | None


def prepare_knn(source: Source, *, size: int, patch_size: int) -> KnnData:
    """Reads every image that has boxes: short side to `size`, central square, boxes through the same transform.

    Of each image's boxes the largest after the transform; in it the centres of a 3×3 grid of equal cells; for each
    the patch whose centre is nearest, which is the patch it lies in (at a border between two, the right or lower one).
    An image that cannot be decoded is left out with a warning. All images are held in memory, 3·size² bytes each.

    Raises:
        UserError: no image of the source has a box, or a box lies beyond its image.
    """
    prepare = functools.partial(_prepare, transform=ResizeCrop(size), patch_size=patch_size)
    prepared = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(source), _READ_AHEAD):
            records = [source[index] for index in range(start, min(start + _READ_AHEAD, len(source)))]
            prepared.extend(item for item in threads.map(prepare, records) if item is not None)
    if not prepared:
        raise UserError(f"{source.name}: no image has a box, which the bbox-aligned k-NN needs; set its boxes")
    images, patches, labels = zip(*prepared)
    return KnnData(
        images=np.stack(images),
        patches=np.stack(patches),
        labels=np.array(labels, np.int32),
        class_names=source.class_names,
    )


def _prepare(
    record: Record, *, transform: ResizeCrop, patch_size: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Int[np.ndarray, "9"], int] | None:
    """Image, patches and label; None where it has no box in the crop or cannot be decoded."""
    if record.boxes is None or not record.boxes.labels.size:
        return None
    pixels = record.image
    if not isinstance(pixels, np.ndarray):
        try:
            pixels = decode_image(pixels, name=record.name)
        except DecodeError as error:
            logging.warning("left out of the bbox-aligned k-NN: %s", error)
            return None
    height, width = pixels.shape[:2]
    right, bottom = record.boxes.xyxy[:, 2:].max(axis=0)
    if right > width + _OUTSIDE_PIXELS or bottom > height + _OUTSIDE_PIXELS:
        raise UserError(
            f"{record.name}: a box reaches to ({right:g}, {bottom:g}) in an image of {width}×{height} pixels; "
            "give the annotations of these very images, or the images at their original size"
        )
    boxes = transform.boxes(record.boxes, width=width, height=height)
    if not boxes.labels.size:
        return None
    largest = boxes.largest()
    patches = box_patches(boxes.xyxy[largest], patch_size=patch_size, grid=transform.size // patch_size)
    return transform.image(pixels), patches, int(boxes.labels[largest])


def box_patches(box: Float[np.ndarray, "4"], *, patch_size: int, grid: int) -> Int[np.ndarray, "9"]:
    """Flat indices of the 9 patches of a box (x0, y0, x1, y1) in a square grid; a small box repeats patches."""
    shares = (np.arange(3) + 0.5) / 3
    columns = (box[0] + shares * (box[2] - box[0])) // patch_size
    rows = (box[1] + shares * (box[3] - box[1])) // patch_size
    columns, rows = (np.clip(places, 0, grid - 1).astype(np.int32) for places in (columns, rows))
    return (rows[:, None] * grid + columns[None, :]).reshape(-1)


def box_features(
    data: KnnData,
    encode: EncodeTokens,
    *,
    batch_size: int,
    inv_temp: float | None = None,
    sharding: Sharding | None = None,
) -> BoxFeatures:
    """The 9 tokens of every image and, with `inv_temp`, their modes among all tokens of their own image (Eq. 4).

    Args:
        data: prepared images.
        encode: maps uint8 images [b, s, s, 3] to tokens [b, N, D]; jitted, as every call gets `batch_size` images.
        batch_size: images a call.
        inv_temp: τ of the mean shift, which multiplies; None: no modes.
        sharding: of a batch over this process's devices; None leaves it to `encode`.
    """

    def features(images: np.ndarray | Array, patches: np.ndarray | Array) -> BoxFeatures:
        return _select(encode(images), patches, inv_temp)

    return map_batches(features, (data.images, data.patches), batch_size=batch_size, sharding=sharding)


@jax.jit
def _select(
    tokens: Float[Array, "b N D"], patches: Int[Array, "b 9"], inv_temp: float | Float[Array, ""] | None
) -> BoxFeatures:
    chosen = gather_tokens(tokens, patches)
    modes = None if inv_temp is None else _normalised(mean_shift(chosen, tokens, inv_temp=inv_temp))
    return BoxFeatures(tokens=_normalised(chosen), modes=modes)


def _normalised(features: Float[Array, "b 9 D"]) -> Float[Array, "b 9 D"]:
    features = features.astype(jnp.float32)
    return features * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(features), axis=-1, keepdims=True), 1e-24))


@functools.partial(jax.jit, static_argnames=("k", "num_classes"))
def _block_votes(
    queries: Float[Array, "q D"],
    bank: Float[Array, "c m D"],
    labels: Int[Array, "c m"],
    *,
    k: int,
    temp: float | Float[Array, ""],
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
    # Relative to the nearest: the votes stay the same, and no temperature lets all of them vanish. Its place is known,
    # but a slice of it here would keep XLA from seeing a top-k above: on a CPU the whole search takes ten times longer.
    nearest = jnp.max(cosine, axis=1, keepdims=True)
    weights = jnp.where(names >= 0, jnp.exp((cosine - nearest) / temp), 0.0)

    def add(votes: Array, neighbour: tuple[Array, Array]) -> tuple[Array, None]:
        weight, name = neighbour
        return votes + jnp.where(name[:, None] == jnp.arange(num_classes), weight[:, None], 0.0), None

    # One neighbour after another: all at once would take the memory of queries × k × classes.
    votes, _ = jax.lax.scan(add, jnp.zeros((queries.shape[0], num_classes)), (weights.T, names.T))
    return jnp.argmax(votes, axis=-1)


def knn_classify(
    queries: Float[np.ndarray, "Q D"],
    bank: Float[np.ndarray, "M D"],
    labels: Int[np.ndarray, " M"],
    *,
    k: int,
    temp: float,
    query_block: int = _QUERY_BLOCK,
    bank_block: int = _BANK_BLOCK,
) -> Int[np.ndarray, " Q"]:
    """Exact weighted k-NN: the class with the largest sum of exp(cos / temp) among the k nearest of the bank.

    Among equally near neighbours the first in the bank counts, among equal sums the lower label.

    Args:
        queries, bank: l2-normalised features.
        labels: of the bank, from 0.
        k: neighbours; all of the bank where it is smaller.
        temp: divides the cosine.
        query_block, bank_block: rows compared at a time.
    """
    num_classes = int(labels.max()) + 1
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
    batch_size: int,
    k: int = 20,
    k_scale: int = 7,
    temp: float = 0.07,
    sharding: Sharding | None = None,
) -> BboxKnnResult:
    """The protocol on tokens: those of train are the bank, each of val's is classified by its k · k_scale nearest.

    Args:
        train, val: from `prepare_knn`. Classes are matched by name; one that train lacks is never voted for.
        encode: maps uint8 images [b, s, s, 3] to tokens [b, N, D].
        batch_size: images encoded at a time.
        k: the paper's k; k_scale: 7 there, hence 140 neighbours (all of a smaller bank).
        temp: divides the cosines.
        sharding: of a batch of images; see `box_features`.

    Raises:
        UserError: train and val have no class in common.
    """
    bank, queries = (box_features(data, encode, batch_size=batch_size, sharding=sharding) for data in (train, val))
    return _score(train, val, bank=bank.tokens, queries=queries.tokens, k=k * k_scale, temp=temp)


def evaluate_tokens_and_modes(
    train: KnnData,
    val: KnnData,
    encode: EncodeTokens,
    *,
    inv_temp: float,
    batch_size: int,
    k: int = 20,
    k_scale: int = 7,
    temp: float = 0.07,
    sharding: Sharding | None = None,
) -> TokenModeResult:
    """As `evaluate_bbox_knn`, on tokens and on their modes, which cost no second encoding.

    `inv_temp` is τ of the mean shift, as the network was trained with.
    """
    bank, queries = (
        box_features(data, encode, batch_size=batch_size, inv_temp=inv_temp, sharding=sharding) for data in (train, val)
    )
    score = functools.partial(_score, train, val, k=k * k_scale, temp=temp)
    return TokenModeResult(
        tokens=score(bank=bank.tokens, queries=queries.tokens), modes=score(bank=bank.modes, queries=queries.modes)
    )


def _score(
    train: KnnData,
    val: KnnData,
    *,
    bank: Float[np.ndarray, "I 9 D"],
    queries: Float[np.ndarray, "J 9 D"],
    k: int,
    temp: float,
) -> BboxKnnResult:
    votes = knn_classify(
        queries.reshape(-1, queries.shape[-1]),
        bank.reshape(-1, bank.shape[-1]),
        np.repeat(train.labels, POINTS),
        k=k,
        temp=temp,
    )
    right = votes.reshape(-1, POINTS) == _labels_as(val, train)[:, None]
    return BboxKnnResult(
        any=float(right.any(axis=1).mean()),
        majority=float((right.sum(axis=1) > POINTS // 2).mean()),
        token=float(right.mean()),
    )


def _labels_as(val: KnnData, train: KnnData) -> Int[np.ndarray, " J"]:
    """Labels of val as train numbers them; -1 for a class that train lacks."""
    if val.class_names == train.class_names:
        return val.labels
    numbers = {name: number for number, name in enumerate(train.class_names)}
    translated = np.array([numbers.get(name, -1) for name in val.class_names], np.int32)
    if not (translated >= 0).any():
        raise UserError(
            f"bbox-aligned k-NN: the classes of its bank ({_listed(train)}) and of its queries ({_listed(val)}) have "
            "no name in common; set boxes of the same classes for both"
        )
    return translated[val.labels]


def _listed(data: KnnData) -> str:
    return ", ".join(data.class_names[:3]) + (", …" if len(data.class_names) > 3 else "") or "no names"


@functools.partial(jax.jit, static_argnames="patch_size")
def pixel_tokens(images: UInt8[Array, "b H W 3"], *, patch_size: int) -> Float[Array, "b N E"]:
    """Raw pixels as tokens, the baseline: each patch's levels less 0.5, flattened."""
    batch, height, width, _ = images.shape
    levels = jnp.asarray(images, jnp.float32) / 255.0 - 0.5
    grid = (height // patch_size, width // patch_size)
    levels = levels.reshape(batch, grid[0], patch_size, grid[1], patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    return levels.reshape(batch, grid[0] * grid[1], -1)


def open_data(settings: BboxKnnConfig, *, patch_size: int, image_size: int) -> tuple[KnnData, KnnData]:
    """Train and val of the protocol; see `prepare_knn`."""
    size = settings.size or image_size
    train, val = (
        prepare_knn(open_source(source), size=size, patch_size=patch_size) for source in (settings.train, settings.val)
    )
    return train, val


def evaluate(
    encoder: Encoder, settings: BboxKnnConfig, *, batch_size: int, data: tuple[KnnData, KnnData] | None = None
) -> Scores:
    """The protocol on an encoder; `data` from `open_data` where it is open already."""
    train, val = data or open_data(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)

    def encode(images: np.ndarray | Array) -> Array:
        tokens = encoder.tokens(images)
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])

    result = evaluate_bbox_knn(
        train, val, encode, batch_size=batch_size, k=settings.k, k_scale=settings.k_scale, temp=settings.temp
    )
    return Scores(metrics=dataclasses.asdict(result))
