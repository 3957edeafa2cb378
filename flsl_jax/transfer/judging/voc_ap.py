"""Average precision as UAVDT's toolkit computes it: of one class, at one IoU, without detections in ignored areas."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from flsl_jax.transfer.config import IgnoredRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedImage:
    """The boxes of one image, all as (x0, y0, x1, y1) in pixels; widths are x1 - x0.

    `truth`: float64 [M, 4]. `found`: float64 [N, 4], with `scores`, float64 [N]. `ignored`: float64 [K, 4].
    """

    truth: np.ndarray
    found: np.ndarray
    scores: np.ndarray
    ignored: np.ndarray


def voc_ap(images: Iterable[JudgedImage], *, iou: float, ignored_rule: IgnoredRule) -> float:
    """The area under the curve of precision over recall, 0 to 1; NaN where there is no true box at all.

    1. Detections in an ignored area are left out, by `ignored_rule`. True boxes never are.
    2. In each image, from the surest detection to the least sure one, each takes the true box that it overlaps most among
       those that no surer one has taken. If that IoU is `iou` or more, the detection is right; else, or if no box is left,
       it is wrong. So a second detection of a vehicle is wrong. Of true boxes that overlap equally, the last is taken.
    3. All detections of all images are ordered by their scores; equal ones stay in the order of the images and, in one
       image, of the detections.
    4. After each detection, precision is the share of right ones so far, and recall the share of true boxes found so far.
       Precision is raised to the highest one at that recall or a later one.
    5. AP is the sum, over all detections, of the gain in recall times that precision: all points of the curve count, as in
       PASCAL VOC from 2010 on, not eleven of them.

    Args:
        images: in a fixed order.
        iou: the smallest intersection over union of a right detection, above 0.
        ignored_rule: which detections lie in an ignored area: those with all four sides strictly "inside" one, those with their
            "center" in one or on its border, or those with "half" their area or more in one.
    """
    scores: list[np.ndarray] = []
    right: list[np.ndarray] = []
    total = 0
    for image in images:
        kept = ~_in_ignored(image.found, image.ignored, rule=ignored_rule)
        order = np.argsort(-image.scores[kept], kind="stable")
        total += len(image.truth)
        scores.append(image.scores[kept][order])
        right.append(_matched(image.found[kept][order], image.truth, iou=iou))
    if not total:
        return math.nan
    ranked = np.argsort(-np.concatenate(scores), kind="stable")
    return _area(np.concatenate(right)[ranked], total=total)


def _area(right: np.ndarray, *, total: int) -> float:
    """The area under the curve; `right`: bool [N], from the surest detection on; `total`: true boxes."""
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float(highest[right].sum() / total)


def _matched(found: np.ndarray, truth: np.ndarray, *, iou: float) -> np.ndarray:
    """Which detections are right, bool [N]; they come from the surest one on."""
    right = np.zeros(len(found), bool)
    overlaps = _overlaps(found, truth)
    overlaps /= _areas(found)[:, None] + _areas(truth) - overlaps + np.finfo(float).tiny
    for number in np.flatnonzero((overlaps >= iou).any(axis=1)):
        row = overlaps[number]
        best = len(row) - 1 - int(np.argmax(row[::-1]))
        if row[best] >= iou:
            right[number] = True
            overlaps[:, best] = -1.0  # taken
    return right


def _in_ignored(found: np.ndarray, ignored: np.ndarray, *, rule: IgnoredRule) -> np.ndarray:
    """Which detections lie in an ignored area, bool [N]."""
    if rule == "half":
        shared = _overlaps(found, ignored)
        return np.any((shared > 0) & (2 * shared >= _areas(found)[:, None]), axis=1)
    if rule == "center":
        center = (found[:, None, :2] + found[:, None, 2:]) / 2
        inside = (center >= ignored[:, :2]) & (center <= ignored[:, 2:])
    else:
        inside = (found[:, None, :2] > ignored[:, :2]) & (found[:, None, 2:] < ignored[:, 2:])
    return np.any(np.all(inside, axis=2), axis=1)


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Areas of all intersections, float64 [N, M]."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=2)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
