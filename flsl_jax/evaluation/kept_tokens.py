"""Frozen tokens of the images that a layer is trained on: kept in memory where they fit, else computed anew in every pass."""

import abc
import dataclasses
from collections.abc import Iterator

import numpy as np

from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import PixelSource
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.masked_tokens import MaskedTokens, masked_tokens
from flsl_jax.typing import Float


@dataclasses.dataclass(frozen=True)
class Example:
    """The tokens of one image, float16, and what is learned of them."""

    tokens: Float[np.ndarray, "h w D"]
    target: np.ndarray


class KeptTokens(abc.ABC):
    """Examples of every image of a source, in any order, any number of times.

    They are kept in memory where they take at most `keep_gib` GiB, else computed anew in every pass. The constructor makes
    the first pass, which measures the mean, the deviation and the number of the tokens.
    """

    def __init__(
        self, source: PixelSource, encoder: Encoder, fit: MaskFit, *, batch_size: int, keep_gib: float
    ) -> None:
        self._source, self._encoder, self.fit, self._batch_size = source, encoder, fit, batch_size
        self.num_images, self.num_tokens = len(source), 0
        self._kept: dict[int, Example] = {}
        room, total, squares, keep = keep_gib * 2**30, 0.0, 0.0, True
        for index, example in self._encoded(np.arange(len(source)), title="train"):
            room -= example.tokens.nbytes + example.target.nbytes
            keep = keep and room >= 0
            if keep:
                self._kept[index] = example
            else:
                self._kept.clear()
            exact = example.tokens.reshape(-1, example.tokens.shape[-1]).astype(np.float64)
            total, squares = total + exact.sum(axis=0), squares + np.square(exact).sum(axis=0)
            self.num_tokens += len(exact)
            self.seen(example.target)
        self.mean = total / self.num_tokens
        self.deviation = np.sqrt(np.maximum(squares / self.num_tokens - self.mean**2, 1e-12))

    @abc.abstractmethod
    def target(self, item: MaskedTokens) -> np.ndarray:
        """What is learned of an image."""

    @abc.abstractmethod
    def seen(self, target: np.ndarray) -> None:
        """Called in the first pass with the target of each image."""

    @property
    def kept(self) -> bool:
        """Whether the tokens are in memory."""
        return bool(self._kept)

    def examples(self, order: np.ndarray) -> Iterator[Example]:
        """The examples of the images with these indices; in this order if all have one shape or are kept."""
        if self._kept:
            yield from (self._kept[int(index)] for index in order)
        else:
            yield from (example for _, example in self._encoded(order, title="train again"))

    def _encoded(self, order: np.ndarray, *, title: str) -> Iterator[tuple[int, Example]]:
        items = masked_tokens(
            self._source,
            self._encoder.tokens,
            self.fit,
            batch_size=self._batch_size,
            title=f"{self._encoder.name}, {title}",
            order=order,
        )
        for item in items:
            yield item.index, Example(tokens=item.tokens.astype(np.float16), target=self.target(item))
