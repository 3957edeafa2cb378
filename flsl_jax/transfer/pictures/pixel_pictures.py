"""The pictures of a segmenter's report: the truth and what is found, and the images that are done worst."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.errors import UserError
from flsl_jax.evaluation.miou import confusion_matrix
from flsl_jax.pictures.page import Picture, escape, row_of_pictures, table
from flsl_jax.transfer.pictures.drawing import draw_regions, image_colors, legend_of, save_picture

log = logging.getLogger(__name__)

_SIDE = 640
_WRONG = "#FF0000"
# A class of this name is left in the colours of the image, so that the others can be seen.
_CLEAR = "background"


class PixelPictures:
    """Draws images with the classes of their pixels.

    Args:
        source: of images and the true classes.
        predict: the classes, int [H, W], that the model finds in an image, uint8 [H, W, 3].
        scores: of each image, as `pixels.json` has them.
        folder: where picture files are written, to be embedded in the page.
    """

    def __init__(
        self,
        source: MaskedSource,
        predict: Callable[[np.ndarray], np.ndarray],
        *,
        scores: Sequence[Mapping[str, Any]],
        folder: Path,
    ) -> None:
        self._source, self._predict, self._scores, self._folder = source, predict, scores, folder

    def examples(self, *, most: int) -> str:
        """Images at equal distances: each alone, with its true classes, and with those that are found."""
        places = np.unique(np.linspace(0, len(self._scores) - 1, min(most, len(self._scores))).round().astype(int))
        rows = self._rows([self._scores[place] for place in places.tolist()], stem="example", with_errors=False)
        note = f"Images at equal distances from all {len(self._scores):,}, not chosen by how well they are done."
        return f'<p class="soft">{note}</p>\n{"".join(rows)}'

    def worst(self, *, most: int) -> str:
        """The images with the lowest mIoU, and where they are wrong."""
        rows = self._rows(sorted(self._scores, key=lambda score: score["miou"])[:most], stem="worst", with_errors=True)
        note = "The images with the lowest mIoU, over the classes that each has or is said to have."
        return f'<p class="soft">{note}</p>\n{"".join(rows)}'

    def _rows(self, scores: Sequence[Mapping[str, Any]], *, stem: str, with_errors: bool) -> Iterator[str]:
        for score in scores:
            try:
                yield self._row(score, stem=f"{stem}{score['index']}", with_errors=with_errors)
            except UserError as error:
                log.warning("left out of the report: %s", error)

    def _row(self, score: Mapping[str, Any], *, stem: str, with_errors: bool) -> str:
        record = self._source[score["index"]]
        found, truth, names = self._predict(record.image), record.mask, self._source.class_names
        counted = np.where(truth < 0, -1, found)
        counts = {
            label: count for label, count in _counted(np.stack([truth, counted])).items() if names[label] != _CLEAR
        }
        colors = image_colors(counts, classes=len(names))
        wrong = ((found != truth) & (truth >= 0)).astype(np.int64)
        shown = [
            ("image", truth, {}, "image"),
            ("truth", truth, colors, f"truth: {_shares(truth, names)}"),
            ("found", found, colors, f"found: {_shares(found, names)}"),
        ]
        if with_errors:
            shown.append(("wrong", wrong, {1: _WRONG}, f"{1 - score['aacc']:.0%} of the pixels, marked as wrong"))
        pictures = []
        for title, labels, own, words in shown:
            picture = draw_regions(record.image, labels, own, longest=_SIDE)
            path = save_picture(picture, self._folder / f"{stem}{title}.jpg")
            pictures.append(Picture(path, alt=f"{record.name}, {words}", title=title))
        legend = legend_of(colors, dict(enumerate(names)))
        caption = f"{record.name}: mIoU {score['miou']:.1%}, {score['aacc']:.1%} of the pixels are right"
        if with_errors:
            confusion = confusion_matrix(truth, found, num_classes=len(names))
            for true, said, share in confused_pairs(confusion, most=1):
                caption = f"{caption}; {share:.0%} are “{names[true]}” taken for “{names[said]}”"
        return row_of_pictures(pictures, f"{caption}.", legend=legend)


def confused_pairs(confusion: np.ndarray, *, most: int) -> list[tuple[int, int, float]]:
    """The true and the predicted class that differ most often, and their share of all pixels, from 0 to 1."""
    wrong = np.where(np.eye(len(confusion), dtype=bool), 0, confusion)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    return [(true, said, float(wrong[true, said] / confusion.sum())) for true, said in pairs if wrong[true, said]]


def confused_table(confusion: np.ndarray, class_names: Sequence[str], *, most: int) -> str:
    """The most frequent mistakes of a whole data set."""
    rows = [
        (
            escape(class_names[true]),
            escape(class_names[said]),
            f"{share:.1%}",
            f"{confusion[true, said] / confusion[true].sum():.1%}",
        )
        for true, said, share in confused_pairs(confusion, most=most)
    ]
    caption = "What is taken for what most often."
    return table(rows, head=("truth", "found", "of all pixels", "of the true class"), caption=caption) if rows else ""


def _counted(labels: np.ndarray) -> dict[int, int]:
    """How many pixels each class has."""
    present, counts = np.unique(labels[labels >= 0], return_counts=True)
    return dict(zip(present.tolist(), counts.tolist(), strict=True))


def _shares(labels: np.ndarray, names: Sequence[str]) -> str:
    """The classes of an image by their share of it."""
    counts = _counted(labels)
    ordered = sorted(counts, key=lambda label: -counts[label])[:6]
    return ", ".join(f"{names[label]} {counts[label] / labels.size:.0%}" for label in ordered) or "nothing"
