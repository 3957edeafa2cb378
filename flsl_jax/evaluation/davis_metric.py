"""Region and boundary accuracy of video masks, as DAVIS-2017 defines them for the semi-supervised task.

Written from the definitions (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv:1704.00675). Where they leave a choice
open, the public davis2017-evaluation is followed. See docs/protocols.md, "Video label propagation".
"""

import dataclasses
import math

import numpy as np

from flsl_jax.typing import Bool, Float, UInt8

# The distance within which a boundary pixel is matched: this share of the image's diagonal, rounded up to whole pixels.
_TOLERANCE = 0.008
_RECALL_THRESHOLD = 0.5
_DECAY_BINS = 4


@dataclasses.dataclass(frozen=True)
class Statistics:
    """One object's values over its frames: their `mean`; `recall`, the share of frames above 0.5; `decay`, the mean of the
    first quarter of the frames less the mean of the last quarter."""

    mean: float
    recall: float
    decay: float


@dataclasses.dataclass(frozen=True)
class ObjectScores:
    """One object of one video: its `region` accuracy J and its `boundary` accuracy F."""

    region: Statistics
    boundary: Statistics


def score_objects(
    truth: UInt8[np.ndarray, "T H W"], predicted: UInt8[np.ndarray, "T H W"], *, num_objects: int
) -> list[ObjectScores]:
    """J and F of the objects 1 to `num_objects` of a video.

    Args:
        truth, predicted: object ids of the frames that are judged: all but the first and the last one of the video. Ids of
            the truth above `num_objects` count as background. An object that is nowhere predicted has empty masks.
        num_objects: the largest id of the video's first frame.

    Raises:
        ValueError: the shapes differ, or there is no frame.
    """
    if truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"masks of shapes {truth.shape} and {predicted.shape}; expected one shape, at least one frame")
    scores = []
    for number in range(1, num_objects + 1):
        pairs = [(a == number, b == number) for a, b in zip(truth, predicted)]
        scores.append(
            ObjectScores(
                region=statistics(np.array([region_similarity(*pair) for pair in pairs])),
                boundary=statistics(np.array([boundary_accuracy(*pair) for pair in pairs])),
            )
        )
    return scores


def region_similarity(truth: Bool[np.ndarray, "H W"], predicted: Bool[np.ndarray, "H W"]) -> float:
    """J: intersection over union; 1 where both are empty."""
    union = np.count_nonzero(truth | predicted)
    return np.count_nonzero(truth & predicted) / union if union else 1.0


def boundary_accuracy(truth: Bool[np.ndarray, "H W"], predicted: Bool[np.ndarray, "H W"]) -> float:
    """F: harmonic mean of two shares, of the boundary pixels of each mask that lie near the boundary of the other.

    Near is a Euclidean distance of at most ceil(0.008 · diagonal) pixels. F is 0 if one boundary is empty and 1 if both are.
    """
    radius = math.ceil(_TOLERANCE * math.hypot(*truth.shape))
    lines = [np.argwhere(boundary(mask)) for mask in (truth, predicted)]
    if not lines[0].size or not lines[1].size:
        return float(lines[0].size == lines[1].size)
    recall, precision = _share_near(*lines, radius=radius), _share_near(*reversed(lines), radius=radius)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels that differ from their right, lower or lower right neighbour, as far as these lie in the image."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])


def statistics(values: Float[np.ndarray, " T"]) -> Statistics:
    """Mean, recall and decay of one value for each frame.

    For decay, the span of the frame numbers 1 to T is cut into four equal parts, whose ends are rounded to whole frames
    (halves up). A frame at an end belongs to both parts.
    """
    spans = np.linspace(1, len(values), _DECAY_BINS + 1)
    # As published: NumPy rounds halves to even, and the small number rounds them up.
    ends = np.round(spans + 1e-10).astype(int) - 1
    first, last = values[ends[0] : ends[1] + 1], values[ends[-2] : ends[-1] + 1]
    return Statistics(
        mean=float(values.mean()),
        recall=float((values > _RECALL_THRESHOLD).mean()),
        decay=float(first.mean() - last.mean()),
    )


def _share_near(points: np.ndarray, others: np.ndarray, *, radius: int) -> float:
    """The share of the points that have one of the others within the radius."""
    from scipy.spatial import KDTree

    # The bound is exclusive; points beyond it come back at an infinite distance.
    distances, _ = KDTree(others).query(points, distance_upper_bound=radius + 0.5)
    return float((distances <= radius).mean())
