"""The pictures of a detector's report: the truth and what is found, and the most confident mistakes."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.pictures.page import Picture, cards, escape, row_of_pictures, table
from flsl_jax.transfer.data.objects import ObjectImages
from flsl_jax.transfer.judging.mistakes import MISTAKES, SAME, Findings, Judged, Kind, Missed, judge_all
from flsl_jax.transfer.pictures.drawing import Mark, detection_mark, draw_objects, image_colors, legend_of, save_picture

log = logging.getLogger(__name__)

# Sides of pictures in pixels, and letters of them by width: those of a row of three, and those that are as wide as a column.
_ROW, _CARD, _ROW_LETTER, _CARD_LETTER = 640, 480, 1 / 30, 1 / 21
# A mistake is shown in a square of so many times its longest side, but no less than this share of the image's short side.
_AROUND, _LEAST_SHARE = 1.6, 0.4
_FALSE, _TRUE = "#D55E00", "#FFFFFF"
_HEADINGS: Mapping[Kind, str] = {
    "class": "Wrong class",
    "place": "Wrong place",
    "duplicate": "Found twice",
    "background": "Nothing there",
}


def balanced_score(images: ObjectImages, detections: Sequence[Mapping[str, Any]]) -> float:
    """The score, in hundredths, above which there are about as many detections as there are objects."""
    numbers = set(images.image_ids)
    objects = sum(
        item["image_id"] in numbers and not item.get("iscrowd") for item in images.coco.dataset["annotations"]
    )
    scores = sorted((found["score"] for found in detections), reverse=True)[: max(1, objects)]
    return math.floor(100 * scores[-1]) / 100 if scores else 0.0


class ObjectPictures:
    """Draws the images of a data set with their objects and detections.

    Args:
        images: with the truth.
        detections: in COCO's results format; where they have masks, those of the truth are drawn too.
        folder: where picture files are written, to be embedded in the page.
    """

    def __init__(self, images: ObjectImages, detections: Sequence[dict[str, Any]], *, folder: Path) -> None:
        self._images, self._folder = images, folder
        self._masks = any("segmentation" in found for found in detections)
        self._names = dict(zip(images.category_ids, images.class_names, strict=True))
        self._index = {number: index for index, number in enumerate(images.image_ids)}
        self.score = balanced_score(images, detections)
        self.findings: Findings = judge_all(images, detections, score=self.score)

    def examples(self, *, most: int) -> str:
        """Images at equal distances: each alone, with its objects, and with what is found."""
        places = np.unique(np.linspace(0, len(self._images) - 1, most).round().astype(int)).tolist()
        drawn = (
            f"Drawn are the detections with a score of at least {self.score:.2f}: there are about as many of them as there are "
            "objects."
            if any(self.findings.judged.values())
            else "Nothing is found in any of them."
        )
        note = (
            f"Images at equal distances from all {len(self._images):,}, not chosen by how well they are done. {drawn}"
        )
        rows = _readable(self._example, places)
        return f'<p class="soft">{note}</p>\n{"".join(rows)}'

    def mistakes(self, *, most: int) -> str:
        """How many there are of each kind, and the surest of each with what is around it."""
        parts = [self._counts()]
        for kind, heading in _HEADINGS.items():
            surest = self.findings.surest(kind, most=most)
            parts.append(_section(heading, MISTAKES[kind], _readable(self._false, surest)))
        lost = self.findings.largest_missed(most=most)
        meaning = f"the largest objects that no right detection with a score of at least {self.score:.2f} is about"
        parts.append(_section("Missed", meaning, _readable(self._missed, lost)))
        return "".join(parts)

    def _example(self, index: int) -> str:
        number = self._images.image_ids[index]
        image, name = self._images.image(index), self._name(number)
        truth = self._images.coco.imgToAnns[number]
        judged = [item for item in self.findings.judged[number] if item.detection["score"] >= self.score]
        objects = [item["category_id"] for item in truth]
        said = [item.detection["category_id"] for item in judged]
        colors = image_colors(Counter([*objects, *said]), classes=len(self._names))
        found = [
            detection_mark(item.detection, self._names, color=colors[number]) for item, number in zip(judged, said)
        ]
        kinds = Counter(item.kind for item in judged)
        counted = len(judged) - kinds["ignored"]
        outcome = f"{kinds['right']} of {counted} detections are right" if counted else "nothing is found"
        lost = len(self.findings.missed[number])
        pictures = [
            self._picture(f"{index}", image, [], title="image", alt=name),
            self._picture(
                f"{index}t",
                image,
                self._truth(truth, colors),
                title="truth",
                alt=f"{name}, truth: {self._in_words(objects)}",
            ),
            self._picture(f"{index}f", image, found, title="found", alt=f"{name}, found: {self._in_words(said)}"),
        ]
        missed = f"; {lost} {'object is' if lost == 1 else 'objects are'} missed" if lost else ""
        legend = legend_of(colors, self._names)
        return row_of_pictures(pictures, f"{name}: {outcome}{missed}.", legend=legend)

    def _in_words(self, numbers: Sequence[int]) -> str:
        counts = Counter(self._names[number] for number in numbers)
        return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"

    def _truth(self, annotations: Sequence[Mapping[str, Any]], colors: Mapping[int, str]) -> list[Mark]:
        marks = []
        for item in sorted(annotations, key=lambda item: item["bbox"][2] * item["bbox"][3]):
            crowd = "ignored area" if self._images.ignored_rule else f"crowd of {self._names[item['category_id']]}"
            marks.append(
                Mark(
                    box=item["bbox"],
                    words=crowd if item.get("iscrowd") else self._names[item["category_id"]],
                    color=colors[item["category_id"]],
                    mask=self._images.coco.annToMask(item) > 0 if self._masks and item.get("segmentation") else None,
                    dashed=bool(item.get("iscrowd")),
                )
            )
        return marks

    def _false(self, item: Judged) -> Picture:
        number = item.detection["image_id"]
        said = self._names[item.detection["category_id"]]
        marks = [Mark(box=item.detection["bbox"], words=f"{said} {item.detection['score']:.2f}", color=_FALSE)]
        words = f"“{said}” with a score of {item.detection['score']:.2f}"
        if item.truth is not None:
            true = self._names[item.truth["category_id"]]
            marks.append(Mark(box=item.truth["bbox"], words=true, color=_TRUE, dashed=True))
            words = f"{words}; the truth is “{true}”, IoU {item.overlap:.2f}"
        return self._card(f"{item.kind}{number}", number, marks, words)

    def _missed(self, item: Missed) -> Picture:
        number, true = item.truth["image_id"], self._names[item.truth["category_id"]]
        marks = [Mark(box=item.truth["bbox"], words=true, color=_TRUE, dashed=True)]
        words = f"“{true}” of {item.truth['bbox'][2]:.0f} × {item.truth['bbox'][3]:.0f} px; no detection overlaps it"
        if item.nearest is not None:
            near = item.nearest.detection
            said = f"{self._names[near['category_id']]} {near['score']:.2f}"
            marks.append(Mark(box=near["bbox"], words=said, color=_FALSE))
            words = f"{words.partition(';')[0]}; the nearest detection is {said}"
        return self._card(f"missed{number}", number, marks, words)

    def _card(self, stem: str, number: int, marks: Sequence[Mark], words: str) -> Picture:
        image, name = self._images.image(self._index[number]), self._name(number)
        return self._picture(stem, image, marks, title=f"{name}: {words}.", alt=f"{name}: {words}", card=True)

    def _picture(
        self, stem: str, image: np.ndarray, marks: Sequence[Mark], *, title: str, alt: str, card: bool = False
    ) -> Picture:
        picture = draw_objects(
            image,
            marks,
            longest=_CARD if card else _ROW,
            cut=_around(marks, image.shape[:2]) if card else None,
            letter=_CARD_LETTER if card else _ROW_LETTER,
        )
        return Picture(save_picture(picture, self._folder / f"{stem}.jpg"), alt=alt, title=title)

    def _name(self, number: int) -> str:
        return str(self._images.coco.imgs[number]["file_name"])

    def _counts(self) -> str:
        kinds = Counter(item.kind for item in self.findings.sure())
        total = max(1, sum(kinds.values()) - kinds["ignored"])
        right = f"an object of that class that no surer detection has found, IoU of at least {SAME}"
        rows = [
            (escape(name), escape(meaning), f"{kinds[kind]:,}", f"{kinds[kind] / total:.0%}")
            for kind, name, meaning in [
                ("right", "Right", right),
                *((kind, heading, MISTAKES[kind]) for kind, heading in _HEADINGS.items()),
            ]
        ]
        objects = kinds["right"] + sum(map(len, self.findings.missed.values()))
        caption = (
            f"The {total:,} detections with a score of at least {self.score:.2f}; of {objects:,} objects {kinds['right']:,} "
            "are found. IoU is the area that two boxes share, divided by the area that they cover together."
        )
        return table(rows, head=("", "what it means", "detections", "share"), caption=escape(caption))


def _section(heading: str, meaning: str, pictures: Iterator[Picture]) -> str:
    shown = list(pictures)
    return (
        f'<h3>{heading}</h3>\n<p class="soft">{escape(meaning[0].upper() + meaning[1:])}.</p>\n{cards(shown)}'
        if shown
        else ""
    )


def _readable(draw: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """What is drawn of each item, without those whose image cannot be read."""
    for item in items:
        try:
            yield draw(item)
        except UserError as error:
            log.warning("left out of the report: %s", error)


def _around(marks: Sequence[Mark], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A square around all marks, no larger than the image: x and y of its first pixel and of the one behind its last."""
    height, width = size
    x0, y0 = (min(mark.box[axis] for mark in marks) for axis in (0, 1))
    x1, y1 = (max(mark.box[axis] + mark.box[axis + 2] for mark in marks) for axis in (0, 1))
    side = max(_AROUND * (x1 - x0), _AROUND * (y1 - y0), _LEAST_SHARE * min(size))
    wide, high = (min(math.ceil(side), limit) for limit in (width, height))
    left = min(max(0, math.floor((x0 + x1 - wide) / 2)), width - wide)
    top = min(max(0, math.floor((y0 + y1 - high) / 2)), height - high)
    return left, top, left + wide, top + high
