"""Frozen tokens of images with masks, one image after another, encoded in batches of one shape."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from flsl_jax.config import ClusteringConfig, LinearProbeConfig, RetrievalConfig, SeparabilityConfig
from flsl_jax.data.mask_fit import MaskFit
from flsl_jax.data.masks import MaskedSource
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.reading import computed_ahead
from flsl_jax.typing import Float, Int, UInt8

Settings = RetrievalConfig | ClusteringConfig | LinearProbeConfig | SeparabilityConfig
_AHEAD = 64
# Images of different shapes wait for others of their shape until so many batches of them are held.
_WAITING_BATCHES = 2


@dataclasses.dataclass(frozen=True)
class MaskedTokens:
    """`tokens` of image `index`, its `mask` at the network's pixels, and the mask that predictions are `judged` by: the
    same or, where the image's ratio is kept, the whole mask at its own size. -1 is ignored in both."""

    index: int
    tokens: Float[np.ndarray, "h w D"]
    mask: Int[np.ndarray, "H W"]
    judged: Int[np.ndarray, "y x"]


@dataclasses.dataclass(frozen=True)
class _Prepared:
    index: int
    image: UInt8[np.ndarray, "H W 3"]
    mask: Int[np.ndarray, "H W"]
    judged: Int[np.ndarray, "y x"]


def make_fit(settings: Settings, *, patch_size: int, image_size: int) -> MaskFit:
    """The geometry of a task; size 0 is the size that the model was trained at.

    Raises:
        UserError: the patch does not divide the size.
    """
    size = settings.size or image_size
    if size < patch_size or size % patch_size:
        raise UserError(f"size is {size}; expected a multiple of the model's patch of {patch_size} px")
    return MaskFit(how=settings.fit, size=size, patch_size=patch_size)


def masked_tokens(
    source: MaskedSource,
    encoder: Encoder,
    fit: MaskFit,
    *,
    batch_size: int,
    title: str,
    order: np.ndarray | None = None,
) -> Iterator[MaskedTokens]:
    """Tokens of every image of a source, with a progress bar.

    Images come in their order where all have one shape after the fit, else shape by shape as batches fill up, which also
    depends on nothing but the source and the order.

    Args:
        source: images with masks; read and decoded by a few threads, a little ahead.
        encoder: of frozen features.
        fit: what of each image is seen.
        batch_size: images encoded at a time; fewer, a power of two, for the last ones of a shape.
        title: of the progress bar.
        order: indices of the images to take; None for all.

    Raises:
        UserError: a record is damaged.
    """
    indices = np.arange(len(source)) if order is None else order

    def prepare(index: int) -> _Prepared:
        record = source[index]
        mask = fit.mask(record.mask)
        judged = record.mask if fit.how == "ratio" else mask
        return _Prepared(index=index, image=fit.image(record.image), mask=mask, judged=judged)

    waiting: dict[tuple[int, ...], list[_Prepared]] = {}
    with tqdm(
        total=len(indices), desc=title, unit="image", disable=True if len(indices) <= batch_size else None
    ) as bar:
        for item in computed_ahead(prepare, map(int, indices), ahead=_AHEAD):
            group = waiting.setdefault(item.image.shape, [])
            group.append(item)
            held = sum(map(len, waiting.values()))
            if len(group) < batch_size and held > _WAITING_BATCHES * batch_size:
                group = max(waiting.values(), key=len)
            if len(group) == batch_size or held > _WAITING_BATCHES * batch_size:
                yield from _encoded(waiting.pop(group[0].image.shape), encoder, batch_size=batch_size)
                bar.update(len(group))
        for group in waiting.values():
            yield from _encoded(group, encoder, batch_size=batch_size)
            bar.update(len(group))


def _encoded(group: list[_Prepared], encoder: Encoder, *, batch_size: int) -> Iterator[MaskedTokens]:
    """A batch of one shape, filled up to a full one or to a power of two with copies of its last image."""
    rows = min(batch_size, 1 << (len(group) - 1).bit_length())
    images = np.stack([item.image for item in group] + [group[-1].image] * (rows - len(group)))
    tokens = np.asarray(encoder.tokens(images), np.float32)
    for item, features in zip(group, tokens):
        yield MaskedTokens(index=item.index, tokens=features, mask=item.mask, judged=item.judged)
