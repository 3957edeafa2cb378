"""Class maps at pixel resolution from scores of patches."""

from typing import Literal

import numpy as np

from flsl_jax.typing import Float, Int

# How many numbers are interpolated at a time; bounds memory and changes no result.
_BLOCK = 2**24


def upsampled_classes(
    scores: Float[np.ndarray, "h w K"], *, height: int, width: int, mode: Literal["nearest", "bilinear"]
) -> Int[np.ndarray, "H W"]:
    """For each pixel the class of the largest score, of equals the lower.

    Args:
        scores: of the patches; the grid spans the image.
        height, width: of the result, in pixels.
        mode: "bilinear" interpolates the scores between the patches' centres, keeps them constant beyond the outermost
            centres (`align_corners=False` in other libraries), and then takes the largest. "nearest" gives a pixel the
            class of the patch that it lies in.
    """
    if mode == "nearest":
        rows = (np.arange(height) * 2 + 1) * scores.shape[0] // (2 * height)
        columns = (np.arange(width) * 2 + 1) * scores.shape[1] // (2 * width)
        return scores.argmax(axis=-1)[rows[:, None], columns].astype(np.int32)
    # A class with a score of 0 in every patch wins nowhere, unless there are negative scores.
    kept = np.flatnonzero(scores.any(axis=(0, 1))) if scores.min() >= 0 else np.arange(scores.shape[-1])
    if not kept.size:
        return np.zeros((height, width), np.int32)
    scores = np.ascontiguousarray(scores[..., kept], np.float32)
    down, across = (
        bilinear_weights((np.arange(size) + 0.5) * length / size - 0.5, length)
        for size, length in ((height, scores.shape[0]), (width, scores.shape[1]))
    )
    block = max(1, _BLOCK // (width * kept.size))
    classes = np.empty((height, width), np.int32)
    for start in range(0, height, block):
        rows = np.einsum("yh,hwk->ywk", down[start : start + block], scores, optimize=True)
        classes[start : start + block] = kept[np.matmul(across, rows).argmax(axis=-1)]
    return classes


def bilinear_weights(places: Float[np.ndarray, " s"], length: int) -> Float[np.ndarray, "s n"]:
    """For each of `places`, the weights of `length` samples that lie at 0, 1, …; beyond the outermost, these alone."""
    place = np.clip(places, 0, length - 1)
    low = np.minimum(place.astype(np.int64), max(length - 2, 0))
    share = (place - low).astype(np.float32)
    weights = np.zeros((len(place), length), np.float32)
    weights[np.arange(len(place)), low] = 1 - share
    if length > 1:
        weights[np.arange(len(place)), low + 1] = share
    return weights
