"""Mean intersection over union from one confusion matrix, and the matching of clusters to classes."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from flsl_jax.typing import Float, Int

Confusion = Int[np.ndarray, "K P"]


@dataclasses.dataclass(frozen=True)
class MaskScores:
    """Shares from 0 to 1, and counts.

    `miou`: mean of the classes' IoU. `macc`: mean of the classes' recall. `aacc`: share of pixels that are right. `iou` and
    `accuracy`: of each class, NaN where the mean leaves it out. `pixels`: of each class in the truth.
    """

    miou: float
    macc: float
    aacc: float
    iou: Float[np.ndarray, " K"]
    accuracy: Float[np.ndarray, " K"]
    pixels: Int[np.ndarray, " K"]

    def metrics(self) -> dict[str, float]:
        """The three means by name."""
        return {"miou": self.miou, "macc": self.macc, "aacc": self.aacc}

    def rows(self, class_names: Sequence[str]) -> list[dict[str, float | str]]:
        """A row for each class that occurs in the truth or in a prediction."""
        return [
            {"class": name, "iou": float(iou), "accuracy": float(accuracy), "pixel_share": float(share)}
            for name, iou, accuracy, share in zip(class_names, self.iou, self.accuracy, self.pixels / self.pixels.sum())
            if not np.isnan(iou)
        ]


def confusion_matrix(
    truth: Int[np.ndarray, "*n"], prediction: Int[np.ndarray, "*n"], *, num_classes: int, num_predicted: int = 0
) -> Confusion:
    """Pixels by true class (rows) and by predicted one (columns), without the pixels whose truth is below 0.

    Args:
        truth: labels below `num_classes`.
        prediction: labels from 0 and below `num_predicted`, such as clusters.
        num_classes: K.
        num_predicted: P; 0 stands for K.

    Raises:
        ValueError: a label is too large, or a prediction below 0.
    """
    columns = num_predicted or num_classes
    counted = truth >= 0
    truth, prediction = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    if truth.size and (truth.max() >= num_classes or prediction.max() >= columns or prediction.min() < 0):
        raise ValueError(f"labels beyond {num_classes} classes or {columns} predictions, or a prediction below 0")
    return np.bincount(truth * columns + prediction, minlength=num_classes * columns).reshape(num_classes, columns)


def mask_scores(confusion: Confusion, *, absent: Literal["leave_out", "zero"] = "leave_out") -> MaskScores:
    """mIoU, mAcc and aAcc of a data set, from the sum of its confusion matrices.

    Args:
        confusion: K classes by P ≥ K predictions. A prediction from K on is no class: it is wrong, and in no class's union.
        absent: whether a class that neither the truth nor a prediction has is left out of mIoU, as usual, or counts as 0,
            as in the public Hummingbird code. mAcc leaves out every class that the truth lacks.

    Raises:
        ValueError: there are fewer predictions than classes, or nothing was counted.
    """
    num_classes = confusion.shape[0]
    if confusion.shape[1] < num_classes or not confusion.any():
        raise ValueError(f"a confusion matrix of shape {confusion.shape} with {confusion.sum()} pixels")
    right, pixels = confusion.diagonal(), confusion.sum(axis=1)
    union = pixels + confusion[:, :num_classes].sum(axis=0) - right
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / union, right / pixels
    if absent == "zero":
        iou = np.nan_to_num(iou, nan=0.0)
    return MaskScores(
        miou=float(np.nanmean(iou)),
        macc=float(np.nanmean(accuracy)),
        aacc=float(right.sum() / pixels.sum()),
        iou=iou,
        accuracy=accuracy,
        pixels=pixels,
    )


def hungarian_match(confusion: Confusion, *, by: Literal["pixels", "iou"] = "pixels") -> Int[np.ndarray, " P"]:
    """The class of each cluster, each class used at most once, such that the sum over the matched pairs is largest.

    Only classes that the truth has are matched. A cluster that is left over gets class -1.

    Args:
        confusion: K classes by P clusters.
        by: what is summed: the common pixels of a pair, which gives the best accuracy, or its IoU, as in the public
            Hummingbird code.
    """
    from scipy.optimize import linear_sum_assignment

    present = np.flatnonzero(confusion.any(axis=1))
    gain = confusion[present].astype(np.float64)
    if by == "iou":
        gain = gain / (confusion[present].sum(axis=1, keepdims=True) + confusion.sum(axis=0) - gain)
    rows, columns = linear_sum_assignment(gain, maximize=True)
    match = np.full(confusion.shape[1], -1)
    match[columns] = present[rows]
    return match


def majority_match(confusion: Confusion) -> Int[np.ndarray, " P"]:
    """For each cluster the class that most of its pixels have, of equals the lower; -1 for a cluster without pixels."""
    return np.where(confusion.any(axis=0), confusion.argmax(axis=0), -1)


def matched(confusion: Confusion, match: Int[np.ndarray, " P"]) -> Int[np.ndarray, "K Q"]:
    """The confusion matrix after each cluster is replaced by its class; the last of the Q = K + 1 columns is no class."""
    num_classes = confusion.shape[0]
    merged = np.zeros((num_classes, num_classes + 1), np.int64)
    np.add.at(merged.T, np.where(match < 0, num_classes, match), confusion.T)
    return merged
