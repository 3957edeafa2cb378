"""Unsupervised object discovery: LOST, and connected regions of one mean-shift mode.

LOST is the method of Siméoni et al. (BMVC 2021). What is computed: docs/protocols.md, "Object discovery".
"""

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np
from tqdm import tqdm

from flsl_jax.config import DiscoveryConfig
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, pixels_of
from flsl_jax.data.records import Record, Source
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError
from flsl_jax.evaluation.batches import images_at_once
from flsl_jax.evaluation.encoder import Encoder, LayeredEncoder, as_trained
from flsl_jax.evaluation.meaning import reachable
from flsl_jax.evaluation.mode_clusters import connected_parts, connected_regions, mode_clusters
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.typing import Bool, Float, UInt8

log = logging.getLogger(__name__)

# Where so small a share of the images has a box that can be hit, there is a warning.
_MUCH = 0.5


@dataclasses.dataclass(frozen=True)
class DiscoveryData:
    """Images with boxes. `groups`: indices into the source by the size of their grid of patches, (rows, columns).

    `in_reach`: the share of the boxes that a rectangle of whole patches can meet, and of the images that have such a box.
    """

    source: Source
    groups: dict[tuple[int, int], list[int]]
    in_reach: tuple[float, float] = (1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Seed:
    """What LOST finds: its seed `patch` (row, column), and the `region` of the patches that belong to the seed's object."""

    patch: tuple[int, int]
    region: Bool[np.ndarray, "h w"]


@dataclasses.dataclass
class _Tally:
    """Boxes of one method and the objects that they meet, counted over all images."""

    images: int = 0
    right_images: int = 0
    boxes: int = 0
    right_boxes: int = 0
    objects: int = 0
    found_objects: int = 0

    def add(self, boxes: Float[np.ndarray, "R 4"], truth: Float[np.ndarray, "M 4"], *, iou: float) -> None:
        """Counts one image's found boxes and its annotated ones."""
        right = box_iou(boxes, truth) >= iou
        self.images, self.right_images = self.images + 1, self.right_images + bool(right.any())
        self.boxes, self.right_boxes = self.boxes + len(boxes), self.right_boxes + int(right.any(axis=1).sum())
        self.objects, self.found_objects = self.objects + len(truth), self.found_objects + int(right.any(axis=0).sum())

    def shares(self) -> dict[str, float]:
        """The numbers of a row of the table; `boxes` is per image."""
        return {
            "corloc": self.right_images / self.images,
            "recall": self.found_objects / self.objects,
            "precision": self.right_boxes / max(self.boxes, 1),
            "boxes": self.boxes / self.images,
        }


def open_data(
    settings: DiscoveryConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> DiscoveryData:
    """The images that have boxes, grouped by their grid of patches: encoding compiles once for a grid, not for an image.

    Args:
        settings: of the protocol.
        patch_size: of the encoder, in pixels.
        image_size: not used: images keep their sizes.
        decoding: how files are read for the encoder.

    Raises:
        UserError: the source cannot be opened, an image cannot be read, no image has a box, a box reaches beyond its image,
            or none can be hit.
    """
    source = open_source(settings.data)
    groups, in_reach = defaultdict(list), []
    hidden = None if len(source) >= 1000 else True
    for index in tqdm(range(len(source)), desc="boxes", unit="image", leave=False, disable=hidden):
        record = source[index]
        if record.boxes is not None and record.boxes.labels.size:
            height, width = _pixels(record, source=source, decoding=decoding).shape[:2]
            record.boxes.require_inside(width=width, height=height, name=record.name)
            groups[(-(-height // patch_size), -(-width // patch_size))].append(index)
            size = {"patch_size": patch_size, "width": width, "height": height}
            in_reach.append(reachable(record.boxes.xyxy, **size, iou=settings.iou))
    if not groups:
        raise UserError(
            f"{source.name}: no image has a box, which object discovery is judged by; name the file or folder that has them "
            "in boxes of this source, --discovery.data.boxes"
        )
    if not any(map(np.any, in_reach)):
        raise UserError(
            f"{source.name}: no box can be hit: patches of {patch_size} px give none of the {sum(map(len, in_reach))} boxes an "
            f"overlap of {settings.iou:g}; use larger images, boxes of these very images, or smaller patches"
        )
    if left_out := len(source) - sum(map(len, groups.values())):
        log.info("%s: left out %d of %d images, which have no box", source.name, left_out, len(source))
    shares = float(np.concatenate(in_reach).mean()), float(np.mean([reach.any() for reach in in_reach]))
    return DiscoveryData(source=source, groups=dict(groups), in_reach=shares)


def evaluate(
    encoder: Encoder, settings: DiscoveryConfig, *, batch_size: int, data: DiscoveryData | None = None
) -> Scores:
    """Boxes that are found without labels, compared with the annotated ones.

    Args:
        encoder: whose features are compared. One without attention (raw pixels) gives its tokens in place of keys.
        settings: of the protocol.
        batch_size: images of the encoder's training size that are encoded at a time; of larger ones, fewer.
        data: from `open_data`; None: opened here.

    Returns:
        `corloc`: the share of images whose one box of LOST is right. `modes_corloc`: the same for the box of the mode region
        that holds LOST's seed. Of all mode regions, `modes_recall`: the share of annotated boxes that a region meets;
        `modes_precision`: the share of regions that meet an annotated box; `modes_regions`: regions per image. The rows are
        these three ways and the box of the whole image, which knows nothing.

    Raises:
        UserError: as `open_data`.
    """
    data = data or open_data(settings, **as_trained(encoder))
    tallies = {name: _Tally() for name in ("LOST", "mode region of its seed", "all mode regions", "whole image")}
    with tqdm(total=sum(map(len, data.groups.values())), desc="discovery", unit="image", disable=None) as progress:
        for found in _encoded(encoder, data, settings, batch_size=batch_size):
            for name, boxes in _found_boxes(found, settings, patch_size=encoder.patch_size).items():
                tallies[name].add(boxes, found.truth, iou=settings.iou)
            progress.update()
    rows = {name: tally.shares() for name, tally in tallies.items()}
    lost, seed, regions, _ = rows.values()
    metrics = {
        "corloc": lost["corloc"],
        "modes_corloc": seed["corloc"],
        "modes_recall": regions["recall"],
        "modes_precision": regions["precision"],
        "modes_regions": regions["boxes"],
    }
    images = sum(map(len, data.groups.values()))
    boxes, hit = data.in_reach
    warning = f"only {100 * hit:.1f} % of the images have a box that patches of {encoder.patch_size} px can hit"
    return Scores(
        metrics=metrics,
        rows=[{"method": name, **row} for name, row in rows.items()],
        images=images,
        judged={"boxes_in_reach": boxes, "images_in_reach": hit},
        warnings=[*getattr(data.source, "warnings", ()), *([warning] if hit <= _MUCH else [])],
    )


def lost(features: Float[np.ndarray, "h w D"], *, k_patches: int) -> Seed:
    """The seed of LOST and the region of its object.

    The seed is the patch with the fewest other patches of positive product with it, of equals the first in reading order.
    Among the `k_patches` patches with the fewest, those of positive product with the seed belong to its object. The region
    is the part, connected over edges, that holds the seed, of all patches whose products with those sum to more than 0.

    Args:
        features: of one image, neither centred nor normalised.
        k_patches: number of patches among which the seed is expanded.
    """
    rows = features.reshape(-1, features.shape[-1])
    products = rows @ rows.T
    positive = products > 0
    np.fill_diagonal(positive, False)
    order = np.argsort(positive.sum(axis=1), kind="stable")
    seed, candidates = order[0], order[:k_patches]
    similar = candidates[products[seed, candidates] > 0]
    together = products[similar].sum(axis=0) > 0
    together[seed] = True  # features of zeros are similar to nothing, not even themselves
    parts, _ = connected_parts(together.reshape(features.shape[:2]))
    place = divmod(int(seed), features.shape[1])
    return Seed(patch=place, region=parts == parts[place])


def region_box(region: Bool[np.ndarray, "h w"], *, patch_size: int, height: int, width: int) -> Float[np.ndarray, "4"]:
    """The box (x0, y0, x1, y1) in pixels around a region's patches, cut at the image's border."""
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * patch_size
    return np.minimum(corners, [width, height, width, height]).astype(np.float32)


def box_iou(boxes: Float[np.ndarray, "R 4"], others: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "R M"]:
    """Intersection over union of each box with each of the others; a box is (x0, y0, x1, y1)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = [np.prod(corners[:, 2:] - corners[:, :2], axis=-1) for corners in (boxes, others)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """One image: its size in pixels, its annotated boxes, the features that LOST compares, and the tokens."""

    height: int
    width: int
    truth: Float[np.ndarray, "M 4"]
    compared: Float[np.ndarray, "h w E"]
    tokens: Float[np.ndarray, "h w D"]


def _found_boxes(image: _Encoded, settings: DiscoveryConfig, *, patch_size: int) -> dict[str, Float[np.ndarray, "R 4"]]:
    """The boxes that each way finds, by its name."""
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
    """Every image with its features: grid by grid, in batches of one shape that copies of the last image fill up."""
    patch = encoder.patch_size
    for grid, indices in data.groups.items():
        size = (grid[0] * patch, grid[1] * patch)
        most = images_at_once(encoder, size=size, batch_size=batch_size)
        rows = min(most, 1 << (len(indices) - 1).bit_length())
        for begin in range(0, len(indices), rows):
            numbers = indices[begin : begin + rows]
            records = [data.source[number] for number in numbers]
            images = [_pixels(record, source=data.source, decoding=encoder.decoding) for record in records]
            padded = np.stack([_padded(image, size=size, blank=encoder.blank) for image in images])
            batch = padded[np.minimum(np.arange(rows), len(numbers) - 1)]
            tokens = np.asarray(encoder.tokens(batch))
            compared = _compared(encoder, batch, settings.features, tokens)
            for row, (record, image) in enumerate(zip(records, images)):
                assert record.boxes is not None  # the groups hold images with boxes alone
                yield _Encoded(
                    height=image.shape[0],
                    width=image.shape[1],
                    truth=record.boxes.xyxy,
                    compared=compared[row],
                    tokens=tokens[row],
                )


def _compared(
    encoder: Encoder,
    images: Float[np.ndarray, "b H W C"],
    kind: Literal["keys", "queries", "values", "tokens"],
    tokens: Float[np.ndarray, "b h w D"],
) -> Float[np.ndarray, "b h w E"]:
    """Keys, queries or values of the last block, the heads side by side; the tokens where there is no attention."""
    if kind == "tokens" or not isinstance(encoder, LayeredEncoder):
        return tokens
    read = encoder.attention_inputs(images)
    inputs = {"keys": read.key, "queries": read.query, "values": read.value}[kind]
    return np.asarray(inputs[:, encoder.num_prefix :]).reshape(*tokens.shape[:3], -1)


def _padded(
    image: UInt8[np.ndarray, "H W C"], *, size: tuple[int, int], blank: tuple[float, ...]
) -> Float[np.ndarray, "h w C"]:
    """The image in the upper left of a larger one, which is 0 everywhere else after the encoder's normalisation."""
    large = np.empty((*size, image.shape[-1]), np.float32)
    large[:] = blank
    large[: image.shape[0], : image.shape[1]] = image
    return large


def _pixels(record: Record, *, source: Source, decoding: Decoding) -> UInt8[np.ndarray, "H W C"]:
    try:
        return pixels_of(record.image, name=record.name, decoding=decoding, page=record.page)
    except DecodeError as error:
        raise UserError(f"{source.name}: {error}; repair or remove it") from error


TASK = Task(
    name="discovery",
    settings=DiscoveryConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Unsupervised object discovery: do frozen features find the objects that people drew boxes around? LOST, and "
    "connected regions of one mean-shift mode.",
    needs="images with boxes (data): a folder and its COCO JSON or VOC XML; shards or tfds with boxes; scenes",
    reference="LOST (BMVC 2021), DINO ViT-S/16 keys, CorLoc: VOC07 0.619, VOC12 0.640, COCO 20k 0.507",
)
