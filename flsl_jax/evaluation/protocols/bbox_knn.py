"""Bbox-aligned k-NN (paper, Appendix F; docs/protocols.md, "Bbox-aligned k-NN"): do patch features tell objects apart?"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flsl_jax.config import BboxKnnConfig, SourceConfig
from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.records import Record, Source
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError
from flsl_jax.evaluation.bank import Bank, Votes
from flsl_jax.evaluation.box_features import BoxFeatures, FeaturePart, encode_boxes
from flsl_jax.evaluation.class_names import translation
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.feature_files import FeatureFiles
from flsl_jax.evaluation.meaning import knn_warnings, require_labels
from flsl_jax.evaluation.reading import ImageStream, Item
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.typing import Float, Int

POINTS = 9


@dataclasses.dataclass(frozen=True)
class BboxKnnData:
    """`train` and `val` as images with boxes, or None for both where their features are read back from `stored`."""

    train: ImageStream | None
    val: ImageStream | None
    stored: FeatureFiles | None

    def splits(self) -> dict[str, ImageStream]:
        """The images that are open, by the name of their split."""
        named = {"train": self.train, "val": self.val}
        return {name: images for name, images in named.items() if images is not None}


@dataclasses.dataclass(frozen=True)
class BboxKnnResult:
    """Shares from 0 to 1.

    `any`: images of which any of the 9 tokens votes for the right class, the paper's number. `majority`: images of which
    most tokens do. `token`: tokens that do. `top5`: images whose class is among the 5 with the most votes of all 9 tokens
    together. `token_top5`: tokens whose class is among their own 5 best.

    By chance `any` is large, because there are nine tries: with C equally frequent classes it reaches 1 - (1 - 1/C)⁹
    without any knowledge (0.70 for 8 classes). Read `token` beside it, whose chance is 1/C. With 5 classes or fewer,
    `top5` and `token_top5` say nothing.
    """

    any: float
    majority: float
    token: float
    top5: float
    token_top5: float


def open_data(settings: BboxKnnConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB) -> BboxKnnData:
    """Opens train and val, or finds their stored features.

    Raises:
        UserError: the size is not a multiple of the patch, a source cannot be read or has no boxes, the two have no class
            in common, train shows one class alone, or the folder of the features holds something else.
    """
    size = settings.size or image_size
    if size < patch_size or size % patch_size:
        raise UserError(f"bbox_knn.size is {size}; expected a multiple of the model's patch of {patch_size} px")
    stored = FeatureFiles(settings.features) if settings.features else None
    if stored is not None and stored.complete:
        return BboxKnnData(train=None, val=None, stored=stored)
    train, val = (
        _open(source, size=size, patch_size=patch_size, decoding=decoding) for source in (settings.train, settings.val)
    )
    translation(train.class_names, val.class_names, what="bbox-aligned k-NN")
    require_labels(train.labels(_box_labels), name=train.name, key="bbox_knn.train")
    return BboxKnnData(train=train, val=val, stored=stored)


def _open(config: SourceConfig, *, size: int, patch_size: int, decoding: Decoding) -> ImageStream:
    source = open_source(config)
    return boxed_images(source, size=size, patch_size=patch_size, on_corrupt=config.on_corrupt, decoding=decoding)


def _box_labels(record: Record) -> Sequence[int]:
    return [] if record.boxes is None else record.boxes.labels.tolist()


def boxed_images(
    source: Source, *, size: int, patch_size: int, on_corrupt: str = "replace", decoding: Decoding = RGB
) -> ImageStream:
    """Items (image uint8 [s, s, C], patches int32 [9], label int32 []) of every image that has a box.

    The short side is resized to `size` and the central square is cut out; boxes go through the same transform. Of each
    image's boxes the largest after the transform counts. It is cut into 3 × 3 equal cells, and for the centre of each cell
    the nearest patch is taken, which is the patch that it lies in (on a border between two, the right or lower one).

    Raises:
        UserError: no image of the source has a box. While reading: a box reaches beyond its image.
    """
    return ImageStream(
        source,
        functools.partial(_prepare, transform=ResizeCrop(size), patch_size=patch_size),
        wanted=lambda record: record.boxes is not None and record.boxes.labels.size > 0,
        lacking="no image has a box, which the bbox-aligned k-NN needs; name the file or folder that has them in boxes of "
        "this source, such as --bbox_knn.val.boxes",
        lacks="no box in the central square",
        on_corrupt=on_corrupt,
        decoding=decoding,
    )


def _prepare(record: Record, pixels: np.ndarray, *, transform: ResizeCrop, patch_size: int) -> Item | None:
    """Image, patches and label; None where no box is left in the crop."""
    if record.boxes is None:
        return None
    height, width = pixels.shape[:2]
    record.boxes.require_inside(width=width, height=height, name=record.name)
    boxes = transform.boxes(record.boxes, width=width, height=height)
    if not boxes.labels.size:
        return None
    largest = boxes.largest()
    patches = box_patches(boxes.xyxy[largest], patch_size=patch_size, grid=transform.size // patch_size)
    return transform.image(pixels), patches, np.int32(boxes.labels[largest])


def box_patches(box: Float[np.ndarray, "4"], *, patch_size: int, grid: int) -> Int[np.ndarray, "9"]:
    """Flat indices of the 9 patches of a box (x0, y0, x1, y1 in pixels) in a square grid; a small box repeats patches."""
    shares = (np.arange(3) + 0.5) / 3
    columns = (box[0] + shares * (box[2] - box[0])) // patch_size
    rows = (box[1] + shares * (box[3] - box[1])) // patch_size
    columns, rows = (np.clip(places, 0, grid - 1).astype(np.int32) for places in (columns, rows))
    return (rows[:, None] * grid + columns[None, :]).reshape(-1)


def evaluate(encoder: Encoder, settings: BboxKnnConfig, *, batch_size: int, data: BboxKnnData | None = None) -> Scores:
    """The features of train are the bank; each of val's is classified by its k · k_scale nearest.

    Classes are matched by name; no vote goes to a class that train lacks.

    Args:
        encoder: its tokens Z are judged; with `modes` also their modes Ẑ among all tokens of their own image (Eq. 4).
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Raises:
        UserError: as `open_data` and `boxed_images`; the largest boxes of train are of one class, no image of val is of a
            class in train, or features on disk are of another model or protocol.
    """
    data = data or open_data(settings, **as_trained(encoder))
    inv_temp = (settings.inv_temp or encoder.inv_temp) if settings.modes else None
    train, val = _features(encoder, settings, data, batch_size=batch_size, inv_temp=inv_temp)
    labels, k = _labels_as(train, val), settings.k * settings.k_scale
    require_labels(train.labels, name="bbox_knn.train", key="bbox_knn.train")
    warnings = knn_warnings(train.labels, labels, size=POINTS * len(train.labels), k=k, key="bbox_knn")
    votes = functools.partial(_votes, train, k=k, temp=settings.temp)
    of_tokens = votes(train.tokens, val.tokens)
    metrics = dataclasses.asdict(result(of_tokens, labels))
    if train.modes is not None and val.modes is not None:
        of_modes = dataclasses.asdict(result(votes(train.modes, val.modes), labels))
        metrics |= {f"modes_{name}": value for name, value in of_modes.items()}
    images = len(train.labels) + len(val.labels)
    warnings = (*(line for stream in data.splits().values() for line in stream.warnings), *warnings)
    return Scores(metrics=metrics, rows=_rows(of_tokens, val, labels), images=images, warnings=warnings)


def _features(
    encoder: Encoder, settings: BboxKnnConfig, data: BboxKnnData, *, batch_size: int, inv_temp: float | None
) -> tuple[BoxFeatures, BoxFeatures]:
    """Of train and val: encoded, and stored on disk where that is wanted; or read back."""

    def encode(images: ImageStream) -> Iterable[FeaturePart]:
        return encode_boxes(encoder, images, batch_size=batch_size, inv_temp=inv_temp, dtype=settings.bank_dtype)

    splits = {name: (images.class_names, encode(images)) for name, images in data.splits().items()}
    if data.stored is None:
        found = {name: BoxFeatures.gather(parts, class_names=names) for name, (names, parts) in splits.items()}
        return found["train"], found["val"]
    protocol = {
        "train": _stored(settings.train),
        "val": _stored(settings.val),
        "size": settings.size or encoder.image_size,
        "patch_size": encoder.patch_size,
        "inv_temp": inv_temp,
        "bank_dtype": settings.bank_dtype,
    }
    if not data.stored.complete:
        data.stored.write(encoder, protocol, splits)
    found = data.stored.read(encoder, protocol)
    return found["train"], found["val"]


def _stored(source: SourceConfig) -> dict[str, Any]:
    """The values of a source as they are kept with its features; those from before there were kinds of scenes are of hues."""
    values = dataclasses.asdict(source)
    if values["scene_kind"] == "hues":
        del values["scene_kind"]
    return values


def _votes(
    train: BoxFeatures, bank: Sequence[np.ndarray], queries: Sequence[np.ndarray], *, k: int, temp: float
) -> Votes:
    """Of the queries, by the bank's nearest; `bank` has the tokens or the modes of `train`."""
    num_classes = max(len(train.class_names), int(train.labels.max()) + 1)
    placed = Bank.place(bank, np.repeat(train.labels, POINTS))
    return placed.vote(queries, k=k, temp=temp, num_classes=num_classes)


def result(votes: Votes, labels: Int[np.ndarray, " J"]) -> BboxKnnResult:
    """The shares, given the votes of J images and their labels in the bank's numbers."""
    right = votes.each[:, :, 0] == labels[:, None]
    return BboxKnnResult(
        any=float(right.any(axis=1).mean()),
        majority=float((right.sum(axis=1) > POINTS // 2).mean()),
        token=float(right.mean()),
        top5=float((votes.group == labels[:, None]).any(axis=1).mean()),
        token_top5=float((votes.each == labels[:, None, None]).any(axis=2).mean()),
    )


def _rows(votes: Votes, val: BoxFeatures, labels: Int[np.ndarray, " J"]) -> list[dict[str, float | int | str]]:
    """A row for each class of val that has images, by its tokens; none where classes have no names."""
    lines: list[dict[str, float | int | str]] = []
    for number in np.unique(val.labels) if val.class_names else ():
        own = val.labels == number
        of_class = result(Votes(each=votes.each[own], group=votes.group[own]), labels[own])
        lines.append(
            {"class": val.class_names[number], "images": int(own.sum()), "any": of_class.any, "token": of_class.token}
        )
    return lines


def _labels_as(train: BoxFeatures, val: BoxFeatures) -> Int[np.ndarray, " J"]:
    """Labels of val as train numbers them; -1 for a class that train lacks."""
    numbers = translation(train.class_names, val.class_names, what="bbox-aligned k-NN")
    return val.labels if numbers is None else numbers[val.labels]


TASK = Task(
    name="bbox_knn",
    settings=BboxKnnConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Bbox-aligned k-NN (paper, Appendix F): do single patch features tell the classes of boxed objects apart?",
    needs="images with boxes, for the bank (train) and for the questions (val): a folder and its COCO JSON, VOC or ILSVRC "
    "XML; shards or tfds with boxes; scenes",
    reference="paper, ImageNet-1k, any of 9 tokens, ViT-S/16: 0.767 (1600 effective epochs), 0.724 (100 epochs)",
    folder="features",
)
