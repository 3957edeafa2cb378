"""Whether a number would mean anything: data that would give one from any features are refused, doubtful ones warned about."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from flsl_jax.data.truth.keypoints import KeypointSource
from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import MaskedFiles, MaskedSource, PixelSource
from flsl_jax.errors import UserError
from flsl_jax.evaluation.depth_metrics import judged_mask
from flsl_jax.evaluation.reading import computed_ahead
from flsl_jax.typing import Bool, Float, Int

# From this share on, what is left out of a number is told as a warning.
_MUCH = 0.5
# Masks that are read ahead while classes are looked for; two classes are found in the first ones as a rule.
_AHEAD = 8
# Classes among which the five best are always the right ones too.
_FIVE = 5
# Fewer tokens for each cluster than this, and the clusters repeat the tokens.
_TOKENS_PER_CLUSTER = 10


@dataclasses.dataclass(frozen=True)
class Judged:
    """What a number is of: `facts` by name, and `warnings`, each a line."""

    facts: Mapping[str, float | int]
    warnings: tuple[str, ...] = ()


def require_classes(source: MaskedSource, fit: MaskFit | None, *, key: str) -> None:
    """Refuses masks in which fewer than two classes occur; reads them until it has seen two.

    Args:
        source: images with masks.
        fit: what of each mask counts; None: all of it.
        key: what the user calls the source, such as "retrieval.val".

    Raises:
        UserError: says how much is ignored and, of masks of 0 and 255, which setting makes them two classes.
    """
    seen, ignored, pixels = set[int](), 0, 0
    for labels, counts in computed_ahead(lambda index: _counted(source, fit, index), range(len(source)), ahead=_AHEAD):
        seen.update(int(label) for label in labels if label >= 0)
        if len(seen) > 1:
            return
        ignored, pixels = ignored + int(counts[labels < 0].sum()), pixels + int(counts.sum())
    _refuse_few(source, seen, ignored=ignored / max(pixels, 1), key=key)


def require_known(source: MaskedSource, fit: MaskFit | None, known: Bool[np.ndarray, " K"], *, train: str) -> None:
    """Refuses masks none of whose classes are `known` from `train`; reads them until it has seen one that is.

    Raises:
        UserError: names a class of each side.
    """
    found = -1
    for labels, _ in computed_ahead(lambda index: _counted(source, fit, index), range(len(source)), ahead=_AHEAD):
        there = labels[labels >= 0]
        if known[there].any():
            return
        found = int(there[0]) if there.size else found
    raise UserError(
        f"{source.name}: none of its classes occurs in {train}, such as {source.class_names[found]} here and "
        f"{source.class_names[int(np.argmax(known))]} there, so that nothing could be right; name masks of the same classes"
    )


def judged_pixels(
    source: MaskedSource,
    counts: Int[np.ndarray, " K"],
    *,
    pixels: int,
    key: str,
    known: Bool[np.ndarray, " K"] | None = None,
) -> Judged:
    """How many classes and which share of the pixels a number is of.

    Args:
        source: the masks that were compared with.
        counts: pixels of each class in them.
        pixels: all pixels, ignored ones too.
        key: what the user calls the source.
        known: classes that a memory or a layer has seen; None: nothing learns.

    Raises:
        UserError: fewer than two classes have pixels.
    """
    classes, ignored = np.flatnonzero(counts), float(1 - counts.sum() / pixels)
    if len(classes) < 2:
        _refuse_few(source, set(map(int, classes)), ignored=ignored, key=key)
    warnings = []
    if ignored >= _MUCH:
        warnings.append(f"{_percent(ignored)} of the pixels of {source.name} are ignored and count nowhere")
    strange = classes[~known[classes]] if known is not None else classes[:0]
    if strange.size:
        warnings.append(
            f"{_percent(counts[strange].sum() / counts.sum())} of the judged pixels are of classes that train does not show "
            f"({len(strange)}, such as {source.class_names[strange[0]]}); none of them can be right"
        )
    return Judged(facts={"classes": len(classes), "ignored_share": ignored}, warnings=tuple(warnings))


def cluster_warnings(clusters: int, *, tokens: int) -> tuple[str, ...]:
    """Warns of clusters that are so many that they repeat the tokens."""
    if clusters * _TOKENS_PER_CLUSTER <= tokens:
        return ()
    return (
        f"{clusters} clusters of {tokens} tokens: the more clusters, the higher the numbers, whatever the features; at most "
        f"one in {_TOKENS_PER_CLUSTER} tokens means something",
    )


def require_labels(labels: Iterable[int | np.integer], *, name: str, key: str) -> None:
    """Refuses a bank of fewer than two classes; looks at the labels until it has seen two.

    Raises:
        UserError: every answer would be the same class.
    """
    seen = set[int]()
    for label in labels:
        seen.add(int(label))
        if len(seen) > 1:
            return
    raise UserError(
        f"{name}: the images of the bank are all of one class, which every neighbour would vote for; name images of two "
        f"classes or more in {key}, or raise its limit"
    )


def knn_warnings(
    bank: Int[np.ndarray, " I"], queries: Int[np.ndarray, " J"], *, size: int, k: int, key: str
) -> tuple[str, ...]:
    """What is doubtful about k-NN.

    Args:
        bank: labels of the images in the bank.
        queries: labels of the images that are asked about, as the bank numbers them; -1 for a class of another name.
        size: rows of the bank.
        k: neighbours that vote.
        key: what the user calls the task.

    Raises:
        UserError: no image that is asked about is of a class in the bank.
    """
    known, warnings = np.isin(queries, bank), []
    if not known.any():
        raise UserError(
            f"{key}: no image of val is of a class that the images of train show, so that nothing could be right; name "
            "images of the same classes, or raise the limits of both"
        )
    if not known.all():
        warnings.append(
            f"{int((~known).sum())} of {len(queries)} images of val are of classes that train does not show, and cannot be "
            "right"
        )
    if len(np.unique(queries)) == 1:
        warnings.append("the images of val are all of one class: the numbers are of that class alone")
    if size < k:
        warnings.append(f"the bank has {size} rows, fewer than the k of {k}: all of it votes on every question")
    if len(np.unique(bank)) <= _FIVE:
        warnings.append(f"the bank has {len(np.unique(bank))} classes: the five best are no test of the features")
    return tuple(warnings)


def require_depths(
    source: PixelSource,
    *,
    low: float,
    high: float,
    crop: Literal["none", "eigen", "garg"],
    key: str,
    various: bool = False,
) -> None:
    """Refuses images of which no depth counts; reads them until it has seen one.

    Args:
        source: images with depths.
        low, high: depths between them count, in metres.
        crop: the part of an image that counts.
        key: what the user calls the source, such as "depth.val".
        various: whether all depths being one is refused too.

    Raises:
        UserError: says which depths there are.
    """
    nearest, farthest, counted = np.inf, 0.0, set[float]()
    depths = computed_ahead(lambda index: source[index].mask, range(len(source)), ahead=_AHEAD)
    for depth in depths:
        known, judged = depth[depth > 0], depth[judged_mask(depth, low=low, high=high, crop=crop)]
        if known.size:
            nearest, farthest = min(nearest, float(known.min())), max(farthest, float(known.max()))
        counted.update((float(judged.min()), float(judged.max())) if judged.size else ())
        if len(counted) > various:
            return
    if counted:
        raise UserError(
            f"{source.name}: every depth is {farthest:g} m, which any constant would hit; name other depths in {key}"
        )
    if not farthest:
        raise UserError(f"{source.name}: no depth is above 0, so that nothing can be judged; name depth files in {key}")
    raise UserError(
        f"{source.name}: depths are from {nearest:g} to {farthest:g} m, and none is between {low:g} and {high:g}"
        + (" in the crop" if crop != "none" else "")
        + f"; set depth.max_depth, or {key}.scale, how many of the whole numbers in a file are a metre"
    )


def judged_depths(source: PixelSource, counts: Sequence[tuple[int, int]]) -> Judged:
    """Which share of the pixels depths are judged at.

    Args:
        source: images with depths.
        counts: judged pixels and all pixels of each image.
    """
    judged, pixels = np.sum(counts, axis=0)
    empty, warnings = sum(own == 0 for own, _ in counts), []
    if judged / pixels <= _MUCH:
        share = _percent(judged / pixels)
        warnings.append(
            f"{share} of the pixels of {source.name} are judged: the others have no depth, or one out of range"
        )
    if empty:
        warnings.append(f"{empty} of {len(counts)} images of {source.name} have no depth that counts, and are left out")
    return Judged(
        facts={"images_judged": len(counts) - empty, "judged_share": float(judged / pixels)}, warnings=tuple(warnings)
    )


def judged_points(
    source: KeypointSource,
    *,
    alpha: float,
    answers: Callable[[int, int], Float[np.ndarray, "n 2"]] | None,
) -> Judged:
    """How many key points a number is of, and how many of them any features would hit.

    Args:
        source: pairs of images with key points.
        alpha: the distance that counts as right, in longer sides of the target's box.
        answers: the places (x, y) in pixels that can be answered in an image of this width and height; None: all pixels.

    Raises:
        UserError: every answer is right, or none is.
    """
    chances, hittable = [], []
    for pair in source.pairs:
        places = _spread(*pair.target_size) if answers is None else answers(*pair.target_size)
        distances = np.linalg.norm(places - pair.target_points[:, None], axis=-1)
        right = distances <= alpha * pair.longest
        chances.append(right.mean(axis=1))
        hittable.append(np.ones(len(right), bool) if answers is None else right.any(axis=1))
    chance, reach = np.concatenate(chances), np.concatenate(hittable)
    if chance.min() == 1:
        raise UserError(
            f"{source.name}: at alpha {alpha:g} every place of every image is right, so that any features would score 1; "
            "lower correspondence.alpha"
        )
    if not reach.any():
        raise UserError(
            f"{source.name}: at alpha {alpha:g} no centre of a patch is near enough to a key point to be right; raise "
            "correspondence.size, or set correspondence.search to pixels"
        )
    warnings = []
    if chance.mean() >= _MUCH:
        warnings.append(
            f"{_percent(float(chance.mean()))} of the points are hit by chance; lower alpha to judge the features"
        )
    if reach.mean() <= _MUCH:
        warnings.append(f"the centre of a patch is near enough to {_percent(float(reach.mean()))} of the points alone")
    facts = {
        "pairs": len(source.pairs),
        "points": len(chance),
        "chance": float(chance.mean()),
        "points_in_reach": float(reach.mean()),
    }
    return Judged(facts=facts, warnings=tuple(warnings))


def _spread(width: int, height: int) -> Float[np.ndarray, "n 2"]:
    """Places spread evenly over an image, at most 64 in a row and in a column."""
    across, down = (
        (np.arange(count) + 0.5) * side / count - 0.5
        for side, count in ((width, min(width, 64)), (height, min(height, 64)))
    )
    return np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)


def reachable(boxes: np.ndarray, *, patch_size: int, width: int, height: int, iou: float) -> Bool[np.ndarray, " M"]:
    """Whether a rectangle of whole patches can have this overlap with each box, the best one that there is.

    The edges of the best rectangle are the nearest borders of patches on one side or the other of the box's own edges: an
    edge that moves further away loses overlap.

    Args:
        boxes: (x0, y0, x1, y1) in pixels, [M, 4].
        patch_size: in pixels.
        width, height: of the image; the last patches are cut there.
        iou: intersection over union.
    """
    best = np.zeros(len(boxes))
    (low_x, high_x), (low_y, high_y) = (
        (_borders(boxes[:, axis], patch_size, side), _borders(boxes[:, axis + 2], patch_size, side))
        for axis, side in ((0, width), (1, height))
    )
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for left in low_x:
        for right in high_x:
            for top in low_y:
                for bottom in high_y:
                    across = np.clip(np.minimum(right, boxes[:, 2]) - np.maximum(left, boxes[:, 0]), 0, None)
                    down = np.clip(np.minimum(bottom, boxes[:, 3]) - np.maximum(top, boxes[:, 1]), 0, None)
                    area = np.clip(right - left, 0, None) * np.clip(bottom - top, 0, None)
                    shared = across * down
                    best = np.maximum(best, shared / (own + area - shared))
    return best >= iou


def _borders(edges: np.ndarray, patch_size: int, side: int) -> Sequence[np.ndarray]:
    """The borders of patches before and after each edge; the last patch ends with the image."""
    return [np.minimum(rounding(edges / patch_size) * patch_size, side) for rounding in (np.floor, np.ceil)]


def _counted(source: MaskedSource, fit: MaskFit | None, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels in a mask, -1 for ignored pixels, and how many pixels each has."""
    mask = source[index].mask
    return np.unique(mask if fit is None or fit.how == "ratio" else fit.mask(mask), return_counts=True)


def _refuse_few(source: MaskedSource, seen: set[int], *, ignored: float, key: str) -> None:
    if not seen:
        raise UserError(
            f"{source.name}: every pixel is ignored, so that nothing can be judged{_black_and_white(source, key)}"
        )
    raise UserError(
        f"{source.name}: one class alone occurs ({source.class_names[next(iter(seen))]}; {_percent(ignored)} of the pixels "
        "are ignored), so that any features would score 1"
        + (_black_and_white(source, key) or f"; name masks of two classes or more in {key}, or ignore other ids")
    )


def _black_and_white(source: MaskedSource, key: str) -> str:
    """What to do about masks that hold 0 and 255 alone, one of which is ignored; empty for other masks."""
    if not isinstance(source, MaskedFiles):
        return ""
    found = set[int]()
    for ids in computed_ahead(source.ids, range(len(source)), ahead=_AHEAD):
        found.update(map(int, np.unique(ids)))
        if not found <= {0, 255}:
            return ""
    if 255 not in found:
        return ""
    flag = f'--{key}.ignore="()"' + (
        "" if key.startswith("config.") else f", in a training config --config.evaluation.{key}.ignore"
    )
    return (
        f"; its masks hold {' and '.join(map(str, sorted(found)))} alone: if 255 is a class there, ignore no id, {flag}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
