"""What is right and wrong about detections: an object twice, another class, another place, nothing there, or missed."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as rle

from flsl_jax.transfer.data.objects import ObjectImages

# IoU of boxes from which on a detection is of an object, and below which it is of none.
SAME, NEAR = 0.5, 0.1

Kind = Literal["right", "duplicate", "class", "place", "background", "ignored"]
# The kinds of mistakes, and what they mean.
MISTAKES: Mapping[Kind, str] = {
    "class": "an object is there, but of another class",
    "place": "an object is near, but the box does not fit it",
    "duplicate": "an object that a surer detection has found already",
    "background": "no object is there, or none has been annotated",
}

Annotation = Mapping[str, Any]
Detection = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Judged:
    """A detection, its kind, and the object that it was compared with, with the IoU of their boxes; None: with none."""

    detection: Detection
    kind: Kind
    truth: Annotation | None = None
    overlap: float = 0.0


@dataclasses.dataclass(frozen=True)
class Missed:
    """An object that no sure detection has found, and the detection that overlaps it the most, if any does."""

    truth: Annotation
    nearest: Judged | None


def judge(detections: Sequence[Detection], annotations: Sequence[Annotation]) -> list[Judged]:
    """The detections of one image from the surest on, each compared with the objects by IoU of boxes.

    As in COCO's AP at IoU 0.5, a detection takes the object of its class that it overlaps the most, by at least 0.5, and that
    no surer one has taken: "right". Else it is "ignored" if at least half of it lies in a crowd of its class; a "duplicate" if
    it overlaps an object of its class by at least 0.5; of the wrong "class" if it so overlaps any object; at the wrong "place"
    if it overlaps any by at least 0.1, those of its class first; and else on the "background".

    Args:
        detections: in COCO's results format.
        annotations: COCO's, of the same image; those with `iscrowd` are crowds.
    """
    ordered = sorted(detections, key=lambda found: -found["score"])
    objects = [truth for truth in annotations if not truth.get("iscrowd")]
    crowds = [truth for truth in annotations if truth.get("iscrowd")]
    overlaps, covered = _overlaps(ordered, objects), _overlaps(ordered, crowds, crowd=True)
    classes = np.array([truth["category_id"] for truth in objects])
    crowd_classes = np.array([truth["category_id"] for truth in crowds])
    free = np.ones(len(objects), bool)
    judged = []
    for number, found in enumerate(ordered):
        row, own = overlaps[number], classes == found["category_id"]
        taken = _best(row, own & free, at_least=SAME)
        if taken is not None:
            free[taken] = False
            judged.append(Judged(found, "right", objects[taken], float(row[taken])))
            continue
        if _best(covered[number], crowd_classes == found["category_id"], at_least=SAME) is not None:
            judged.append(Judged(found, "ignored"))
            continue
        kind, near = _mistake(row, own)
        judged.append(Judged(found, kind) if near is None else Judged(found, kind, objects[near], float(row[near])))
    return judged


def missed(judged: Sequence[Judged], annotations: Sequence[Annotation], *, score: float) -> list[Missed]:
    """The objects of one image that no right detection of at least this score is about; crowds are not counted."""
    found = {id(item.truth) for item in judged if item.kind == "right" and item.detection["score"] >= score}
    objects = [truth for truth in annotations if not truth.get("iscrowd") and id(truth) not in found]
    overlaps = _overlaps([item.detection for item in judged], objects)
    nearest = [_best(column, np.ones(len(judged), bool), at_least=NEAR) for column in overlaps.T]
    return [Missed(truth, None if near is None else judged[near]) for truth, near in zip(objects, nearest)]


@dataclasses.dataclass(frozen=True)
class Findings:
    """All images of a data set, by the image's id: its detections, judged, and its missed objects."""

    judged: Mapping[int, Sequence[Judged]]
    missed: Mapping[int, Sequence[Missed]]
    score: float

    def sure(self) -> Iterable[Judged]:
        """The detections of at least the score."""
        return (item for items in self.judged.values() for item in items if item.detection["score"] >= self.score)

    def surest(self, kind: Kind, *, most: int) -> list[Judged]:
        """The surest detections of a kind, the surest first, one of an image at most."""
        firsts = [next((item for item in items if item.kind == kind), None) for items in self.judged.values()]
        ordered = sorted((item for item in firsts if item is not None), key=lambda item: -item.detection["score"])
        return ordered[:most]

    def largest_missed(self, *, most: int) -> list[Missed]:
        """The missed objects with the largest boxes, the largest first, one of an image at most."""
        largest = [max(items, key=_area) for items in self.missed.values() if items]
        return sorted(largest, key=_area, reverse=True)[:most]


def judge_all(images: ObjectImages, detections: Iterable[Detection], *, score: float) -> Findings:
    """Judges the detections of a whole data set.

    Args:
        images: with the truth.
        detections: in COCO's results format.
        score: how sure a detection must be, for an object not to count as missed.
    """
    found: dict[int, list[Detection]] = {number: [] for number in images.image_ids}
    for detection in detections:
        found[detection["image_id"]].append(detection)
    truth = images.coco.imgToAnns
    judged = {number: judge(items, truth[number]) for number, items in found.items()}
    return Findings(
        judged=judged,
        missed={number: missed(items, truth[number], score=score) for number, items in judged.items()},
        score=score,
    )


def _overlaps(detections: Sequence[Detection], truth: Sequence[Annotation], *, crowd: bool = False) -> np.ndarray:
    """IoU of boxes, float64 [D, T]; with `crowd` the share of each detection that is covered."""
    if not detections or not truth:
        return np.zeros((len(detections), len(truth)))
    iou: Any = rle.iou  # whose own types are narrower than what it takes
    found, true = (np.array([item["bbox"] for item in items], np.float64) for items in (detections, truth))
    return np.asarray(iou(found, true, [crowd] * len(truth)))


def _best(values: np.ndarray, allowed: np.ndarray, *, at_least: float) -> int | None:
    """The place of the largest of the allowed values; None if there is none as large as that."""
    usable = np.where(allowed, values, -1.0)
    if not len(usable) or usable.max() < at_least:
        return None
    return int(usable.argmax())


def _mistake(row: np.ndarray, own: np.ndarray) -> tuple[Kind, int | None]:
    """The kind of a detection that is not right, and the object that makes it so; `own`: the objects of its class."""
    every = np.ones(len(row), bool)
    looked_at: tuple[tuple[Kind, np.ndarray, float], ...] = (
        ("duplicate", own, SAME),
        ("class", every, SAME),
        ("place", own, NEAR),
        ("place", every, NEAR),
    )
    for kind, allowed, at_least in looked_at:
        near = _best(row, allowed, at_least=at_least)
        if near is not None:
            return kind, near
    return "background", None


def _area(item: Missed) -> float:
    return float(item.truth["bbox"][2] * item.truth["bbox"][3])
