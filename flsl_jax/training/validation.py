"""What is seen of a network during training: the bbox-aligned k-NN, and a picture of its tokens."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from flsl_jax.config import BboxKnnConfig, Config
from flsl_jax.data.pixels import normalise
from flsl_jax.data.sources import open_source
from flsl_jax.data.views import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.evaluation.bbox_knn import (
    BboxKnnResult,
    EncodeTokens,
    KnnData,
    evaluate_bbox_knn,
    pixel_tokens,
    prepare_knn,
)
from flsl_jax.pictures.projection import save_features
from flsl_jax.training.setup import Training
from flsl_jax.typing import Array, UInt8


@dataclasses.dataclass(frozen=True)
class Validation:
    """Images and boxes, read once; measured on every process alike, on its own devices."""

    settings: BboxKnnConfig
    batch_size: int
    patch_size: int
    train: KnnData
    val: KnnData

    @classmethod
    def open(cls, config: Config) -> "Validation | None":
        """Reads the images; None where the config wants no evaluation.

        Raises:
            UserError: a source cannot be read or has no boxes.
        """
        if not config.evaluation.every_epochs:
            return None
        settings, patch_size = config.evaluation.bbox_knn, config.model.patch_size
        train, val = (
            prepare_knn(open_source(source), size=settings.size or config.views.size, patch_size=patch_size)
            for source in (settings.train, settings.val)
        )
        batch_size = config.evaluation.batch_size
        return cls(settings=settings, batch_size=batch_size, patch_size=patch_size, train=train, val=val)

    def measure(self, training: Training, params: Any, *, baseline: bool = False) -> dict[str, float]:
        """`knn_any`, `knn_majority` and `knn_token` of a network; with `baseline` also those of raw pixels.

        Args:
            training: whose graph the parameters belong to.
            params: parameters on any devices; the teacher's as a rule.
            baseline: measure raw pixels too.
        """
        values = _named("knn", self._evaluate(local_encoder(training, params)))
        if baseline:
            pixels = functools.partial(pixel_tokens, patch_size=self.patch_size)
            values |= _named("knn_pixels", self._evaluate(pixels))
        return values

    def _evaluate(self, encode: Callable[[np.ndarray], Array]) -> BboxKnnResult:
        settings = self.settings
        return evaluate_bbox_knn(
            self.train,
            self.val,
            encode,
            batch_size=self.batch_size,
            k=settings.k,
            k_scale=settings.k_scale,
            temp=settings.temp,
        )


def local_encoder(training: Training, params: Any) -> EncodeTokens:
    """Maps uint8 images [b, s, s, 3] to tokens [b, N, D] on this process's own devices.

    Every process must call this, with parameters on any devices; what it returns each may use by itself.
    """
    local = jax.tree.map(jnp.asarray, jax.device_get(jax.jit(_identity, out_shardings=training.replicated)(params)))
    encode = _encoder(training.pure_step.graph)
    return lambda images: encode(local, images)


def draw_features(training: Training, params: Any, images: UInt8[np.ndarray, "I s s 3"], path: Path) -> None:
    """Writes the picture of a network's tokens below those of the untrained one; every process calls, the first writes."""
    untrained = jax.jit(lambda: training.init().teacher)()
    encoders = {"untrained": local_encoder(training, untrained), "trained": local_encoder(training, params)}
    if jax.process_index() == 0:
        tokens = {name: np.asarray(encode(images)) for name, encode in encoders.items()}
        grids = {name: rearrange(x, "i (h w) d -> i h w d", h=math.isqrt(x.shape[1])) for name, x in tokens.items()}
        save_features(images, grids, path)


@functools.lru_cache(maxsize=2)
def _encoder(graph: nnx.GraphDef) -> Callable[[Any, np.ndarray], Array]:
    """Tokens of uint8 images, compiled once for a network."""

    @jax.jit
    def encode(params: Any, images: Array) -> Array:
        levels = normalise(images.astype(jnp.float32), mean=IMAGENET_MEAN, std=IMAGENET_STD)
        tokens = nnx.merge(graph, params).backbone(levels)
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])

    return encode


def _identity(tree: Any) -> Any:
    return tree


def _named(prefix: str, result: BboxKnnResult) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in dataclasses.asdict(result).items()}
