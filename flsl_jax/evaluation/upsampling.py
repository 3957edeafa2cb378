"""Class maps at pixel resolution from scores of patches."""

from typing import Literal

import numpy as np

from flsl_jax.typing import Float, Int

# Rows are interpolated together as long as they have so few numbers; bounds memory, changes no result.
_BLOCK = 2**24


def upsampled_classes(
    scores: Float[np.ndarray, "h w K"], *, height: int, width: int, mode: Literal["nearest", "bilinear"]
) -> Int[np.ndarray, "H W"]:
    """The class of the largest score of each pixel, the lower of equals.

    Args:
        scores: of the patches; the grid spans the image.
        height, width: of the result, in pixels.
        mode: "bilinear" interpolates the scores between the patches' centres and keeps them constant beyond the outermost
            (`align_corners=False` elsewhere), then takes the largest; "nearest" gives a pixel the patch that it lies in.
    """
    if mode == "nearest":
        rows = (np.arange(height) * 2 + 1) * scores.shape[0] // (2 * height)
        columns = (np.arange(width) * 2 + 1) * scores.shape[1] // (2 * width)
        return scores.argmax(axis=-1)[rows[:, None], columns].astype(np.int32)
    # A class that no patch has any score of wins nowhere, unless all scores are negative.
    kept = np.flatnonzero(scores.any(axis=(0, 1))) if scores.min() >= 0 else np.arange(scores.shape[-1])
    if not kept.size:
        return np.zeros((height, width), np.int32)
    scores = np.ascontiguousarray(scores[..., kept], np.float32)
    down, across = _bilinear(scores.shape[0], height), _bilinear(scores.shape[1], width)
    block = max(1, _BLOCK // (width * kept.size))
    classes = np.empty((height, width), np.int32)
    for start in range(0, height, block):
        rows = np.einsum("yh,hwk->ywk", down[start : start + block], scores, optimize=True)
        classes[start : start + block] = kept[np.matmul(across, rows).argmax(axis=-1)]
    return classes


def _bilinear(length: int, size: int) -> Float[np.ndarray, "s n"]:
    """Weights of `length` samples at their centres for each of `size` pixels."""
    place = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    share = (place - low).astype(np.float32)
    weights = np.zeros((size, length), np.float32)
    weights[np.arange(size), low] = 1 - share
    if length > 1:
        weights[np.arange(size), low + 1] = share
    return weights
