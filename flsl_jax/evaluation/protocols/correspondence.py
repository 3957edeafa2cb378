"""Key-point correspondence: is the nearest feature of another image of a category at the same place of the object?

What is computed, and where the public code differs: docs/protocols.md, "Key-point correspondence".
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from flsl_jax.config import CorrespondenceConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.keypoint_fit import KeypointFit
from flsl_jax.data.truth.keypoints import KeypointPair, KeypointSource, open_keypoints
from flsl_jax.evaluation.batches import images_at_once, map_stream
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.masked_tokens import whole_patches
from flsl_jax.evaluation.meaning import Judged, judged_points
from flsl_jax.evaluation.reading import computed_ahead
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.evaluation.upsampling import bilinear_weights
from flsl_jax.typing import Bool, Float, Int

# Images that are read ahead of the one in use.
_AHEAD = 32


@dataclasses.dataclass(frozen=True)
class CorrespondenceData:
    """Pairs of images, how they are fitted, and how easily their points are hit."""

    source: KeypointSource
    fit: KeypointFit
    judged: Judged


@dataclasses.dataclass(frozen=True)
class _Features:
    """One image: its `tokens`, its own width and height, and `lengths`, those of the interpolated tokens at its pixels."""

    tokens: Float[np.ndarray, "h w D"]
    size: tuple[int, int]
    lengths: Float[np.ndarray, "H W"] | None


def evaluate(
    encoder: Encoder, settings: CorrespondenceConfig, *, batch_size: int, data: CorrespondenceData | None = None
) -> Scores:
    """PCK: the share of the points that are found again.

    Args:
        encoder: whose tokens are compared.
        settings: of the protocol.
        batch_size: images of the encoder's training size that are encoded at a time; of larger ones, fewer.
        data: from `open_data`; None: opened here.

    Returns:
        `pck_point`: the share of all points; `pck_image`: the mean over the pairs of the share of their points. The rows are
        the categories.

    Raises:
        UserError: as `open_data`.
    """
    data = data or open_data(settings, **as_trained(encoder))
    pairs: dict[str, list[KeypointPair]] = {}
    for pair in data.source.pairs:
        pairs.setdefault(pair.category, []).append(pair)
    hits: dict[str, list[Bool[np.ndarray, " P"]]] = {}
    with tqdm(total=len(data.source.pairs), desc=f"{encoder.name}, pairs", unit="pair", disable=None) as progress:
        for category, own in pairs.items():
            names = list(dict.fromkeys(name for pair in own for name in (pair.source, pair.target)))
            features = _encoded(names, encoder, data, search=settings.search, batch_size=batch_size)
            for pair in own:
                found = find_points(pair.source_points, features[pair.source], features[pair.target], fit=data.fit)
                distance = np.linalg.norm(found - pair.target_points, axis=1)
                hits.setdefault(category, []).append(distance <= settings.alpha * pair.longest)
                progress.update()
    rows = [{"category": category, "pairs": len(own), **_shares(own)} for category, own in hits.items()]
    every = [one for own in hits.values() for one in own]
    metrics = {name: value for name, value in _shares(every).items() if name != "points"}
    return Scores(
        metrics=metrics,
        rows=rows,
        images=len({name for pair in data.source.pairs for name in (pair.source, pair.target)}),
        judged=data.judged.facts,
        warnings=data.judged.warnings,
    )


def open_data(
    settings: CorrespondenceConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> CorrespondenceData:
    """The pairs.

    Raises:
        UserError: files are missing or wrong, the size is not a multiple of the patch, or the points would be hit by any
            features, or by none.
    """
    size = whole_patches(settings.size or image_size, patch_size=patch_size, key="correspondence.size")
    fit = KeypointFit(how=settings.fit, size=size, patch_size=patch_size)
    source = open_keypoints(settings.data, decoding=decoding)
    centres = functools.partial(_centres, fit) if settings.search == "patches" else None
    judged = judged_points(source, alpha=settings.alpha, answers=centres)
    return CorrespondenceData(source=source, fit=fit, judged=judged)


def find_points(
    points: Float[np.ndarray, "P 2"], source: _Features, target: _Features, *, fit: KeypointFit
) -> Float[np.ndarray, "P 2"]:
    """Where the points (x, y) of one image are found in another one: the largest cosine, of equals the first row by row."""
    width, height = source.size
    places = fit.to_patches(points, width=width, height=height)
    rows, columns = source.tokens.shape[:2]
    if target.lengths is None:
        nearest = np.clip(np.floor(places + 0.5), 0, (columns - 1, rows - 1)).astype(np.int64)
        features = unit_vectors(source.tokens)[nearest[:, 1], nearest[:, 0]]
        cosines = features @ unit_vectors(target.tokens).reshape(-1, features.shape[1]).T
        best = np.stack(np.unravel_index(cosines.argmax(axis=1), target.tokens.shape[:2])[::-1], axis=1)
        return fit.to_pixels(best.astype(np.float64), width=target.size[0], height=target.size[1])
    down, across = bilinear_weights(places[:, 1], rows), bilinear_weights(places[:, 0], columns)
    features = np.einsum("ph,pw,hwd->pd", down, across, source.tokens, optimize=True)
    down, across = _weights(fit, target.size, target.tokens.shape[:2])
    # The product with interpolated tokens is the interpolated product, which has one number for each token instead of D.
    products = np.einsum("pd,hwd->phw", features, target.tokens, optimize=True)
    best = np.stack([_largest((down @ product @ across.T) / target.lengths) for product in products])
    return best.astype(np.float64)


def _encoded(
    names: Sequence[str], encoder: Encoder, data: CorrespondenceData, *, search: str, batch_size: int
) -> dict[str, _Features]:
    """The features of images by their names."""
    batch_size = images_at_once(encoder, size=(data.fit.size, data.fit.size), batch_size=batch_size)
    sizes: dict[str, tuple[int, int]] = {}

    def prepare(name: str) -> np.ndarray:
        image = data.source.image(name)
        sizes[name] = (image.shape[1], image.shape[0])
        return data.fit.image(image)

    def batches() -> Iterator[Sequence[np.ndarray]]:
        images = computed_ahead(prepare, names, ahead=_AHEAD)
        while batch := [image for _, image in zip(range(batch_size), images)]:
            yield [np.stack(batch)]

    tokens = [one for part in map_stream(encoder.tokens, batches(), batch_size=batch_size) for one in part]
    return {
        name: _Features(
            tokens=np.asarray(own, np.float32),
            size=sizes[name],
            lengths=_lengths(own, sizes[name], fit=data.fit) if search == "pixels" else None,
        )
        for name, own in zip(names, tokens, strict=True)
    }


def _lengths(
    tokens: Float[np.ndarray, "h w D"], size: tuple[int, int], *, fit: KeypointFit
) -> Float[np.ndarray, "H W"]:
    """The lengths of the interpolated tokens at the pixels of an image of this width and height."""
    down, across = _weights(fit, size, tokens.shape[:2])
    lines = np.tensordot(down, tokens, axes=1)
    # Of a pixel's two columns of tokens: |a s + b t|² = a² |s|² + 2 a b s·t + b² |t|².
    squares = np.einsum("ywd,ywd->yw", lines, lines) @ np.square(across).T
    if tokens.shape[1] > 1:
        mixed = np.einsum("ywd,ywd->yw", lines[:, :-1], lines[:, 1:])
        squares += 2 * mixed @ (across[:, :-1] * across[:, 1:]).T
    return np.sqrt(np.maximum(squares, 1e-24))


def _weights(fit: KeypointFit, size: tuple[int, int], grid: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The weights of the rows and of the columns of patches at the pixels of an image of this width and height."""
    width, height = size
    line = np.arange(max(size), dtype=np.float64)
    places = fit.to_patches(np.stack([line, line], axis=1), width=width, height=height)
    return bilinear_weights(places[:height, 1], grid[0]), bilinear_weights(places[:width, 0], grid[1])


def _centres(fit: KeypointFit, width: int, height: int) -> Float[np.ndarray, "n 2"]:
    """The centres of all patches as (x, y) in pixels of an image of this size."""
    line = np.arange(fit.grid, dtype=np.float64)
    return fit.to_pixels(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), width=width, height=height)


def _largest(cosines: Float[np.ndarray, "H W"]) -> Int[np.ndarray, "2"]:
    row, column = divmod(int(cosines.argmax()), cosines.shape[1])
    return np.array([column, row])


def _shares(hits: Sequence[np.ndarray]) -> dict[str, float | int]:
    every = np.concatenate(hits)
    return {
        "points": len(every),
        "pck_point": float(every.mean()),
        "pck_image": float(np.mean([own.mean() for own in hits])),
    }


TASK = Task(
    name="correspondence",
    settings=CorrespondenceConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Key-point correspondence (SPair-71k): is the nearest feature of another image at the same place of the object?",
    needs="pairs of images with key points (data): files in the layout of SPair-71k, scenes",
)
