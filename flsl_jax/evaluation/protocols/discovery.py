"""Unsupervised object discovery: LOST (Siméoni et al., BMVC 2021) on frozen features, and regions of one mean-shift mode."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from flsl_jax.config import DiscoveryConfig
from flsl_jax.data.decode import DecodeError, decode_image
from flsl_jax.data.records import Source
from flsl_jax.data.sources import open_source
from flsl_jax.errors import UserError
from flsl_jax.evaluation.batches import images_at_once
from flsl_jax.evaluation.encoder import Encoder, NetworkEncoder
from flsl_jax.evaluation.mode_clusters import connected_regions, mode_clusters
from flsl_jax.evaluation.task import Scores
from flsl_jax.typing import Array, Bool, Float, Int, UInt8

_PATCH_BOX = Int[np.ndarray, "4"]


@dataclasses.dataclass(frozen=True)
class DiscoveryData:
    """Images with boxes. `groups`: indices into the source by the size of their grid of patches, (rows, columns)."""

    source: Source
    groups: dict[tuple[int, int], list[int]]


@dataclasses.dataclass(frozen=True)
class Seed:
    """Of LOST: the `patch` (row, column), and the `region` of the patches that belong to its object."""

    patch: tuple[int, int]
    region: Bool[np.ndarray, "h w"]


@dataclasses.dataclass
class _Tally:
    """Boxes of one method, counted over all images."""

    images: int = 0
    right_images: int = 0
    boxes: int = 0
    right_boxes: int = 0
    objects: int = 0
    found_objects: int = 0

    def add(self, boxes: Float[np.ndarray, "R 4"], truth: Float[np.ndarray, "M 4"], *, iou: float) -> None:
        """One image's boxes and objects."""
        right = box_iou(boxes, truth) >= iou
        self.images, self.right_images = self.images + 1, self.right_images + bool(right.any())
        self.boxes, self.right_boxes = self.boxes + len(boxes), self.right_boxes + int(right.any(axis=1).sum())
        self.objects, self.found_objects = self.objects + len(truth), self.found_objects + int(right.any(axis=0).sum())

    def row(self, method: str) -> dict[str, float | str]:
        """As a line of the table."""
        return {
            "method": method,
            "corloc": self.right_images / self.images,
            "recall": self.found_objects / self.objects,
            "precision": self.right_boxes / max(self.boxes, 1),
            "boxes": self.boxes / self.images,
        }


def open_data(settings: DiscoveryConfig, *, patch_size: int, image_size: int) -> DiscoveryData:
    """The images that have boxes, grouped by the grid that they fill: encoding compiles once a grid, not once an image.

    Args:
        settings: the protocol.
        patch_size: of the encoder.
        image_size: plays no part here: images keep their sizes.

    Raises:
        UserError: the source cannot be opened, an image cannot be read, no image has a box, or a box lies beyond its image.
    """
    source = open_source(settings.data)
    groups = defaultdict(list)
    hidden = None if len(source) >= 1000 else True
    for index in tqdm(range(len(source)), desc="boxes", unit="image", leave=False, disable=hidden):
        record = source[index]
        if record.boxes is not None and record.boxes.labels.size:
            height, width = _read(source, index).shape[:2]
            record.boxes.require_inside(width=width, height=height, name=record.name)
            groups[(-(-height // patch_size), -(-width // patch_size))].append(index)
    if not groups:
        raise UserError(f"{source.name}: no image has a box, which object discovery is judged by; set its boxes")
    return DiscoveryData(source=source, groups=dict(groups))


def evaluate(
    encoder: Encoder, settings: DiscoveryConfig, *, batch_size: int, data: DiscoveryData | None = None
) -> Scores:
    """Boxes of objects that nobody named, against the annotated ones.

    Args:
        encoder: whose features are compared. One without attention (raw pixels) gives its tokens in place of keys.
        settings: the protocol.
        batch_size: images of the encoder's training size that it can take at a time; of larger ones it gets fewer.
        data: from `open_data` where it is open already.

    Returns:
        `corloc`, the share of images whose one box of LOST is right; `modes_corloc`, the same where the box is that of the
        mode region that holds LOST's seed; of all mode regions the `modes_recall`, the share of annotated boxes that one
        of them meets, `modes_precision`, the share of regions that meet one, and `modes_regions`, their number an image. A
        row for each of these ways, and one for the box of the whole image, which knows nothing.

    Raises:
        UserError: as `open_data`.
    """
    data = data or open_data(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    tallies = {name: _Tally() for name in ("LOST", "mode region of its seed", "all mode regions", "whole image")}
    with tqdm(total=sum(map(len, data.groups.values())), desc="discovery", unit="image", disable=None) as progress:
        for found in _encoded(encoder, data, settings, batch_size=batch_size):
            for name, boxes in _found_boxes(found, settings, patch_size=encoder.patch_size).items():
                tallies[name].add(boxes, found.truth, iou=settings.iou)
            progress.update()
    rows = [tally.row(name) for name, tally in tallies.items()]
    lost, seed, regions, _ = rows
    metrics = {
        "corloc": lost["corloc"],
        "modes_corloc": seed["corloc"],
        "modes_recall": regions["recall"],
        "modes_precision": regions["precision"],
        "modes_regions": regions["boxes"],
    }
    return Scores(metrics=metrics, rows=rows)


def lost(features: Float[np.ndarray, "h w D"], *, k_patches: int) -> Seed:
    """The seed of LOST and the region of its object.

    The seed has the fewest patches of positive product with its features (of equals the first in reading order). Of the
    `k_patches` patches with the fewest, those of positive product with the seed are taken as the object's; the region is
    the part, connected over edges and holding the seed, of all patches whose products with those sum to more than 0.

    Args:
        features: of one image, as they are: neither centred nor normalised.
        k_patches: patches that the seed is expanded among.
    """
    from scipy import ndimage

    rows = features.reshape(-1, features.shape[-1])
    products = rows @ rows.T
    positive = products > 0
    np.fill_diagonal(positive, False)
    order = np.argsort(positive.sum(axis=1), kind="stable")
    seed, candidates = order[0], order[:k_patches]
    similar = candidates[products[seed, candidates] > 0]
    together = products[similar].sum(axis=0) > 0
    together[seed] = True  # features of zeros are similar to nothing, not even themselves
    parts, _ = ndimage.label(together.reshape(features.shape[:2]))
    place = divmod(int(seed), features.shape[1])
    return Seed(patch=place, region=parts == parts[place])


def region_box(region: Bool[np.ndarray, "h w"], *, patch_size: int, height: int, width: int) -> Float[np.ndarray, "4"]:
    """(x0, y0, x1, y1) in pixels around a region's patches, cut at the image's size."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * patch_size
    return np.minimum(corners, [width, height, width, height]).astype(np.float32)


def box_iou(boxes: Float[np.ndarray, "R 4"], others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "R M"]:
    """Intersection over union of every box with every other, (x0, y0, x1, y1) each."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(corners[:, 2:] - corners[:, :2], axis=-1) for corners in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """One image: its size, its annotated boxes, what LOST compares and what mean-shift does."""

    height: int
    width: int
    truth: Float[np.ndarray, "M 4"]
    compared: Float[np.ndarray, "h w E"]
    tokens: Float[np.ndarray, "h w D"]


def _found_boxes(image: _Encoded, settings: DiscoveryConfig, *, patch_size: int) -> dict[str, Float[np.ndarray, "R 4"]]:
    """The boxes that each way finds."""
    seed = lost(image.compared, k_patches=settings.k_patches)
    clusters = mode_clusters(image.tokens, inv_temp=settings.inv_temp, similarity=settings.mode_similarity)
    regions = connected_regions(clusters)
    large = [number for number, count in enumerate(np.bincount(regions.reshape(-1))) if count >= settings.min_tokens]

    def boxes(*masks: np.ndarray) -> np.ndarray:
        found = [region_box(mask, patch_size=patch_size, height=image.height, width=image.width) for mask in masks]
        return np.array(found, np.float32).reshape(-1, 4)

    return {
        "LOST": boxes(seed.region),
        "mode region of its seed": boxes(regions == regions[seed.patch]),
        "all mode regions": boxes(*(regions == number for number in large)),
        "whole image": boxes(np.ones(regions.shape, bool)),
    }


def _encoded(
    encoder: Encoder, data: DiscoveryData, settings: DiscoveryConfig, *, batch_size: int
) -> Iterator[_Encoded]:
    """Every image with its features: grid by grid, in batches of one shape."""
    patch = encoder.patch_size
    for grid, indices in data.groups.items():
        size = (grid[0] * patch, grid[1] * patch)
        most = images_at_once(encoder, size=size, batch_size=batch_size)
        rows = min(most, 1 << (len(indices) - 1).bit_length())
        for begin in range(0, len(indices), rows):
            numbers = indices[begin : begin + rows]
            images = [_read(data.source, number) for number in numbers]
            padded = np.stack([_padded(image, size=size, blank=encoder.blank) for image in images])
            batch = padded[np.minimum(np.arange(rows), len(numbers) - 1)]
            tokens = np.asarray(encoder.tokens(batch))
            compared = tokens if settings.features == "tokens" else _compared(encoder, batch, settings.features, tokens)
            for row, (number, image) in enumerate(zip(numbers, images)):
                yield _Encoded(
                    height=image.shape[0],
                    width=image.shape[1],
                    truth=data.source[number].boxes.xyxy,
                    compared=compared[row],
                    tokens=tokens[row],
                )


def _compared(
    encoder: Encoder, images: Float[np.ndarray, "b H W 3"], kind: str, tokens: Float[np.ndarray, "b h w D"]
) -> Float[np.ndarray, "b h w E"]:
    """Keys, queries or values of the last block, the heads side by side; the tokens where there is no attention."""
    if not isinstance(encoder, NetworkEncoder):
        return tokens
    inputs: Array = getattr(
        encoder.attention_inputs(images), {"keys": "key", "queries": "query", "values": "value"}[kind]
    )
    return np.asarray(inputs[:, encoder.num_prefix :]).reshape(*tokens.shape[:3], -1)


def _padded(
    image: UInt8[np.ndarray, "H W 3"], *, size: tuple[int, int], blank: tuple[float, ...]
) -> Float[np.ndarray, "h w 3"]:
    """The image at the upper left of a larger one that is 0 everywhere else after the encoder's normalisation."""
    large = np.empty((*size, 3), np.float32)
    large[:] = blank
    large[: image.shape[0], : image.shape[1]] = image
    return large


def _read(source: Source, index: int) -> UInt8[np.ndarray, "H W 3"]:
    record = source[index]
    if isinstance(record.image, np.ndarray):
        return record.image
    try:
        return decode_image(record.image, name=record.name)
    except DecodeError as error:
        raise UserError(f"{source.name}: {error}; mend or remove it") from error
