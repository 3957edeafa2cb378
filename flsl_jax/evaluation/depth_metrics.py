"""How well depths agree with the truth: the usual numbers, of one image, and which of its pixels are judged."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flsl_jax.typing import Bool, Float

# Rows and columns of NYUv2's images that are judged (Eigen et al. 2014), and shares of the sides of KITTI's (Garg et al. 2016).
_EIGEN_SIZE, _EIGEN = (480, 640), (slice(45, 471), slice(41, 601))
_GARG = ((0.40810811, 0.99189189), (0.03594771, 0.96405229))


def fits_crop(size: tuple[int, int], crop: Literal["none", "eigen", "garg"]) -> bool:
    """Whether the crop is made for images of this height and width."""
    return crop != "eigen" or size == _EIGEN_SIZE


def judged_mask(
    truth: Float[np.ndarray, "H W"], *, low: float, high: float, crop: Literal["none", "eigen", "garg"]
) -> Bool[np.ndarray, "H W"]:
    """Which pixels are judged: inside the crop, and strictly between `low` and `high` metres."""
    inside = np.zeros(truth.shape, bool)
    if crop == "eigen":
        inside[_EIGEN] = True
    elif crop == "garg":
        rows, columns = (
            slice(int(first * side), int(last * side)) for (first, last), side in zip(_GARG, truth.shape, strict=True)
        )
        inside[rows, columns] = True
    else:
        inside[:] = True
    return inside & (truth > low) & (truth < high)


def depth_scores(truth: Float[np.ndarray, " n"], found: Float[np.ndarray, " n"]) -> dict[str, float]:
    """The numbers of one image, of n ≥ 1 depths above 0.

    `rmse`: root of the mean squared difference, in metres. `absrel`: mean of |difference| / truth. `log10`: mean of the
    difference of the logarithms. `delta1`, `delta2`, `delta3`: the share of max(found / truth, truth / found) below 1.25,
    1.25² and 1.25³.
    """
    truth, found = truth.astype(np.float64), found.astype(np.float64)
    ratio = np.maximum(found / truth, truth / found)
    return {
        "rmse": float(np.sqrt(np.mean(np.square(found - truth)))),
        "absrel": float(np.mean(np.abs(found - truth) / truth)),
        "log10": float(np.mean(np.abs(np.log10(found) - np.log10(truth)))),
        **{f"delta{power}": float(np.mean(ratio < 1.25**power)) for power in (1, 2, 3)},
    }


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean over the images of each number."""
    return {name: float(np.mean([own[name] for own in scores])) for name in scores[0]}
