"""The features of boxed objects: the tokens of 9 patches of each image, and their modes."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from flsl_jax.evaluation.batches import map_stream
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.reading import ImageStream
from flsl_jax.objective import gather_tokens, mean_shift
from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Float, Int

# Images whose features are held as one array, and lie in one file on disk.
_PART_IMAGES = 16384


@dataclasses.dataclass(frozen=True)
class FeaturePart:
    """Features of I images: l2-normalised `tokens` [I, 9, D], `modes` alike or None, and `labels` int32 [I]."""

    tokens: np.ndarray
    modes: np.ndarray | None
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class BoxFeatures:
    """Features of all images of a source: the parts of `tokens` and of `modes` (None: not wanted), and all `labels`."""

    tokens: Sequence[np.ndarray]
    modes: Sequence[np.ndarray] | None
    labels: Int[np.ndarray, " I"]
    class_names: tuple[str, ...]

    @classmethod
    def gather(cls, parts: Iterable[FeaturePart], *, class_names: tuple[str, ...]) -> "BoxFeatures":
        """The features of parts, in their order."""
        parts = list(parts)
        modes = [part.modes for part in parts if part.modes is not None]
        return cls(
            tokens=[part.tokens for part in parts],
            modes=modes or None,
            labels=np.concatenate([part.labels for part in parts]),
            class_names=class_names,
        )


def encode_boxes(
    encoder: Encoder,
    images: ImageStream,
    *,
    batch_size: int,
    inv_temp: float | None = None,
    dtype: str = "float32",
    part_images: int = _PART_IMAGES,
) -> Iterator[FeaturePart]:
    """The 9 tokens of every image and, with `inv_temp`, their modes among all tokens of their own image (Eq. 4).

    Args:
        encoder: of frozen features.
        images: items (image, patches, label), as `boxed_images` gives them.
        batch_size: images encoded at a time.
        inv_temp: τ of the mean shift, a factor of products of tokens; None: no modes.
        dtype: of the features, float32 or bfloat16.
        part_images: images in a part; the last part has fewer.
    """

    def features(images: np.ndarray, patches: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        tokens, modes = _select(encoder.tokens(images), patches, inv_temp, dtype=dtype)
        return {"tokens": tokens, "modes": modes, "labels": labels}

    waiting: list[dict[str, Any]] = []
    for done in map_stream(features, images.batches(batch_size), batch_size=batch_size):
        waiting.append(done)
        if sum(len(part["labels"]) for part in waiting) >= part_images:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[dict[str, Any]]) -> FeaturePart:
    return FeaturePart(**jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts))


@functools.partial(jax.jit, static_argnames="dtype")
def _select(
    tokens: Float[Array, "b h w D"],
    patches: Int[Array, "b 9"],
    inv_temp: float | Float[Array, ""] | None,
    *,
    dtype: str,
) -> tuple[Float[Array, "b 9 D"], Float[Array, "b 9 D"] | None]:
    tokens = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
    chosen = gather_tokens(tokens, patches)
    modes = None if inv_temp is None else l2_normalise(mean_shift(chosen, tokens, inv_temp=inv_temp)).astype(dtype)
    return l2_normalise(chosen).astype(dtype), modes
