"""Frozen tokens of images with masks, one image after another, encoded in batches of one shape."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import PixelSource
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Images
from flsl_jax.evaluation.reading import computed_ahead
from flsl_jax.typing import Array, Float, Int, UInt8

# From images to one feature for each patch, such as `Encoder.tokens`.
Encode = Callable[[Images], Float[Array, "b h w D"] | Float[np.ndarray, "b h w D"]]
# Images that are read and decoded ahead of the one in use.
_AHEAD = 64
# Images wait for others of their shape as long as no more than this many batches wait in total.
_WAITING_BATCHES = 2


@runtime_checkable
class FitSettings(Protocol):
    """Settings of a task that brings images with masks to one size; see `MaskFit`."""

    @property
    def size(self) -> int:
        """Height, width or short side in pixels; 0: as the model was trained."""
        ...

    @property
    def fit(self) -> Literal["square", "crop", "ratio"]:
        """How images are brought to this size."""
        ...


@dataclasses.dataclass(frozen=True)
class MaskedTokens:
    """One image: its `index` in the source, its `tokens`, and two masks, in which -1 is ignored (of depths, 0).

    `mask` has the pixels that the network saw. `judged` is what predictions are judged by: the same mask or, where the
    image's ratio is kept, the whole mask at its own size.
    """

    index: int
    tokens: Float[np.ndarray, "h w D"]
    mask: Int[np.ndarray, "H W"] | Float[np.ndarray, "H W"]
    judged: Int[np.ndarray, "y x"] | Float[np.ndarray, "y x"]


@dataclasses.dataclass(frozen=True)
class _Prepared:
    index: int
    image: UInt8[np.ndarray, "H W C"]
    mask: Int[np.ndarray, "H W"] | Float[np.ndarray, "H W"]
    judged: Int[np.ndarray, "y x"] | Float[np.ndarray, "y x"]


def make_fit(settings: FitSettings, *, patch_size: int, image_size: int) -> MaskFit:
    """The geometry of a task; size 0 stands for the size that the model was trained at.

    Raises:
        UserError: the size is not a multiple of the patch.
    """
    size = whole_patches(settings.size or image_size, patch_size=patch_size, key="size")
    return MaskFit(how=settings.fit, size=size, patch_size=patch_size)


def whole_patches(size: int, *, patch_size: int, key: str) -> int:
    """The size, which is a number of whole patches.

    Raises:
        UserError: it is not; names `key`, and the nearest one that is.
    """
    if size < patch_size or size % patch_size:
        near = max(1, round(size / patch_size)) * patch_size
        raise UserError(f"{key} is {size}; expected a multiple of the model's patch of {patch_size} px, such as {near}")
    return size


def masked_tokens(
    source: PixelSource,
    encode: Encode,
    fit: MaskFit,
    *,
    batch_size: int,
    title: str,
    order: np.ndarray | None = None,
) -> Iterator[MaskedTokens]:
    """Tokens of every image of a source, with a progress bar.

    Images come in their order where all have one shape after the fit. Otherwise they come shape by shape as batches fill
    up, in an order that is the same every time.

    Args:
        source: images with masks or depths; read and decoded by threads, a little ahead.
        encode: frozen features of a batch of images of one shape.
        fit: which part of each image is used, and at which size.
        batch_size: images encoded at a time; for the last ones of a shape, the next power of two of their number.
        title: of the progress bar.
        order: indices of the images to take; None: all.

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
                yield from _encoded(waiting.pop(group[0].image.shape), encode, batch_size=batch_size)
                bar.update(len(group))
        for group in waiting.values():
            yield from _encoded(group, encode, batch_size=batch_size)
            bar.update(len(group))


def _encoded(group: list[_Prepared], encode: Encode, *, batch_size: int) -> Iterator[MaskedTokens]:
    """The tokens of images of one shape; copies of the last image fill the batch up to a full one or to a power of two."""
    rows = min(batch_size, 1 << (len(group) - 1).bit_length())
    images = np.stack([item.image for item in group] + [group[-1].image] * (rows - len(group)))
    tokens = np.asarray(encode(images), np.float32)
    for item, features in zip(group, tokens):
        yield MaskedTokens(index=item.index, tokens=features, mask=item.mask, judged=item.judged)
