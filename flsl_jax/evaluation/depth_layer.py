"""One linear layer from frozen tokens to depth, trained by the scale-invariant loss."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from flsl_jax.config import DepthConfig
from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import PixelSource
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.kept_tokens import Example, KeptTokens
from flsl_jax.evaluation.masked_tokens import MaskedTokens
from flsl_jax.evaluation.upsampling import bilinear_weights
from flsl_jax.typing import Array, Float

# Depths are computed at so many places across a patch, and as many down.
FINER = 4
# Added to the weight of every bin, so that the sum is never 0 (AdaBins).
_LEAST = 0.1
# Of the loss: what is added before the logarithm, and the weight of the squared mean.
_EPS, _MEAN_WEIGHT = 1e-3, 0.15
# The share of the steps in which the rate rises.
_WARMUP = 0.05

_Params = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class DepthLayer:
    """Logits = `tokens` @ `weights` + `bias`; `depths` of the K bins in metres."""

    weights: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]
    depths: Float[np.ndarray, " K"]

    def predict(self, tokens: Float[np.ndarray, "h w D"], *, height: int, width: int) -> Float[np.ndarray, "H W"]:
        """The depth of every pixel of an image of this size, in metres, between the first and the last bin."""
        logits = tokens @ self.weights + self.bias
        down, across = (bilinear_weights(_centres(FINER * side, side), side) for side in logits.shape[:2])
        logits = np.einsum("yh,xw,hwk->yxk", down, across, logits, optimize=True)
        shares = np.maximum(logits, 0) + _LEAST
        depths = (shares @ self.depths) / shares.sum(axis=-1)
        down, across = (
            bilinear_weights(_centres(size, side), side)
            for size, side in zip((height, width), depths.shape, strict=True)
        )
        return np.clip(down @ depths @ across.T, self.depths[0], self.depths[-1])


class TrainDepths(KeptTokens):
    """Tokens of every image of a source, each with depths at `FINER` times as many places, float32, 0 where none counts.

    `mean_depth`: of all that count, in metres.
    """

    def __init__(
        self, source: PixelSource, encoder: Encoder, fit: MaskFit, *, settings: DepthConfig, batch_size: int
    ) -> None:
        self._low, self._high = settings.min_depth, settings.max_depth
        self._sum, self._count = 0.0, 0
        super().__init__(source, encoder, fit, batch_size=batch_size, keep_gib=settings.keep_gib)

    @property
    def mean_depth(self) -> float:
        """See the class."""
        return self._sum / max(self._count, 1)

    def target(self, item: MaskedTokens) -> np.ndarray:
        """See `KeptTokens`."""
        rows, columns = (
            ((np.arange(FINER * side) + 0.5) * self.fit.patch_size / FINER).astype(np.int64)
            for side in item.tokens.shape[:2]
        )
        depths = item.mask[rows[:, None], columns]
        return np.where((depths > self._low) & (depths < self._high), depths, 0).astype(np.float32)

    def seen(self, target: np.ndarray) -> None:
        """See `KeptTokens`."""
        self._sum += float(target.sum(dtype=np.float64))
        self._count += int(np.count_nonzero(target))


def train_layer(train: TrainDepths, settings: DepthConfig, *, title: str = "") -> DepthLayer:
    """The layer after all steps; the seed decides the order of the images in each pass, and all else is fixed.

    At the start half of the weight lies near the mean depth of `train`, the other half on all bins. A step takes `batch_size`
    images of one shape; where fewer are left, copies without depths fill it up.
    """
    steps = settings.steps
    warmup = min(max(1, round(_WARMUP * steps)), steps - 1) if steps > 1 else 0
    rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else settings.lr, settings.lr, warmup, steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay, mask={"weights": True, "bias": False})
    depths = np.linspace(settings.min_depth, settings.max_depth, settings.bins, dtype=np.float32)
    mean, deviation = (np.asarray(value, np.float32) for value in (train.mean, train.deviation))
    params: _Params = {
        "weights": jnp.zeros((mean.shape[0], settings.bins)),
        "bias": jnp.asarray(_first_bias(train.mean_depth, depths)),
    }
    state = optimizer.init(params)
    step = _make_step(optimizer, mean=mean, deviation=deviation, depths=depths)
    rng = np.random.default_rng(settings.seed)
    passes = (train.examples(rng.permutation(train.num_images)) for _ in itertools.count())
    batches = (batch for examples in passes for batch in _batches(examples, size=settings.batch_size))
    for _ in tqdm(range(steps), desc=f"{title}, linear layer", unit="step", disable=None):
        params, state = step(params, state, *next(batches))
    weights = np.asarray(params["weights"]) / deviation[:, None]
    return DepthLayer(weights=weights, bias=np.asarray(params["bias"]) - mean @ weights, depths=depths)


def _first_bias(depth: float, depths: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Logits, all above 0 so that all learn, of which as much lies near this depth as on all bins together."""
    near = np.exp(-0.5 * np.square((depths - depth) / (0.05 * (depths[-1] - depths[0]))))
    return (_LEAST + 2 * _LEAST * len(depths) * near / near.sum()).astype(np.float32)


def _make_step(
    optimizer: optax.GradientTransformation, *, mean: np.ndarray, deviation: np.ndarray, depths: np.ndarray
) -> Callable[[_Params, Any, np.ndarray, np.ndarray], tuple[_Params, Any]]:
    def loss(params: _Params, tokens: Array, target: Array) -> Array:
        standard = (tokens.astype(jnp.float32) - mean) / deviation
        logits = jnp.matmul(standard, params["weights"], precision="highest") + params["bias"]
        logits = jax.image.resize(logits, (*target.shape, logits.shape[-1]), "bilinear")
        shares = jnp.maximum(logits, 0.0) + _LEAST
        found = jnp.matmul(shares, depths, precision="highest") / jnp.sum(shares, axis=-1)
        return scale_invariant_loss(found, target)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: _Params, state: Any, tokens: Array, target: Array) -> tuple[_Params, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, tokens, target), state, params)
        return cast(_Params, optax.apply_updates(params, updates)), state

    return step


def scale_invariant_loss(found: Float[Array, "b y x"], target: Float[Array, "b y x"]) -> Float[Array, ""]:
    """√(variance + 0.15 · mean²) of the difference of the logarithms, over the places whose target is above 0 (AdaBins)."""
    counts = target > 0
    difference = jnp.where(counts, jnp.log(found + _EPS) - jnp.log(jnp.where(counts, target, 1.0) + _EPS), 0.0)
    number = jnp.sum(counts)
    mean = jnp.sum(difference) / jnp.maximum(number, 1)
    variance = jnp.sum(jnp.where(counts, jnp.square(difference - mean), 0.0)) / jnp.maximum(number - 1, 1)
    return jnp.sqrt(jnp.maximum(variance + _MEAN_WEIGHT * jnp.square(mean), 1e-12))


def _batches(examples: Iterable[Example], *, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and targets of `size` images of one shape; what fills up has no depths."""
    waiting: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        group = waiting.setdefault(example.target.shape, [])
        group.append(example)
        if len(group) == size:
            yield _stacked(waiting.pop(example.target.shape), size=size)
    for group in waiting.values():
        yield _stacked(group, size=size)


def _stacked(group: list[Example], *, size: int) -> tuple[np.ndarray, np.ndarray]:
    more = size - len(group)
    tokens = np.stack([example.tokens for example in group] + [group[-1].tokens] * more)
    target = np.stack([example.target for example in group] + [np.zeros_like(group[-1].target)] * more)
    return tokens, target


def _centres(count: int, length: int) -> Float[np.ndarray, " n"]:
    """Where the centres of `count` equal cells lie among the centres of `length` cells that span the same."""
    return (np.arange(count) + 0.5) * length / count - 0.5
