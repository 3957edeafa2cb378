"""Linear probe: one linear layer from frozen tokens to the classes of their patches, judged by mIoU.

The layer sees tokens standardised by the mean and deviation of train's, which is itself linear. Its targets are the shares
of the classes in each patch: the cross-entropy of a patch's logits with them is the mean over its pixels. Predictions are
the largest of the logits interpolated to the mask's size, as segmentation heads do.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from flsl_jax.config import LinearProbeConfig
from flsl_jax.data.mask_fit import MaskFit, class_shares
from flsl_jax.data.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.class_names import check_same_classes
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.miou import confusion_matrix, mask_scores
from flsl_jax.evaluation.task import Scores
from flsl_jax.evaluation.upsampling import upsampled_classes
from flsl_jax.typing import Array, Float

_WARMUP = 0.05


@dataclasses.dataclass(frozen=True)
class Examples:
    """Tokens of one image, and the share of each of their patches that every class has; float16."""

    tokens: Float[np.ndarray, "N D"]
    shares: Float[np.ndarray, "N K"]


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """Logits = `tokens` @ `weights` + `bias`."""

    weights: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]

    def logits(self, tokens: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n K"]:
        """Of tokens as they come from the encoder."""
        return tokens @ self.weights + self.bias


class TrainTokens:
    """Examples of every image of a source, in any order, again and again.

    They are kept where they take at most `keep_gib` GiB, else computed anew in every pass. The mean and the
    deviation of the tokens, and their number, are known after the first pass, which the constructor makes.

    Raises:
        UserError: every pixel is ignored.
    """

    def __init__(
        self, source: MaskedSource, encoder: Encoder, fit: MaskFit, *, batch_size: int, keep_gib: float
    ) -> None:
        self._source, self._encoder, self._fit, self._batch_size = source, encoder, fit, batch_size
        self.num_images, self.num_classes, self.num_tokens = len(source), source.num_classes, 0
        self.square_tokens = (fit.size // fit.patch_size) ** 2
        self._kept: dict[int, Examples] = {}
        room, total, squares = keep_gib * 2**30, 0.0, 0.0
        self.class_mass, keep = np.zeros(source.num_classes), True
        for index, examples in self._encoded(np.arange(len(source)), title="train"):
            room -= examples.tokens.nbytes + examples.shares.nbytes
            keep = keep and room >= 0
            if keep:
                self._kept[index] = examples
            else:
                self._kept.clear()
            exact = examples.tokens.astype(np.float64)
            total, squares = total + exact.sum(axis=0), squares + np.square(exact).sum(axis=0)
            self.num_tokens += len(exact)
            self.class_mass += examples.shares.sum(axis=0, dtype=np.float64)
        if not self.class_mass.any():
            raise UserError(f"{source.name}: every pixel is ignored; there is nothing to learn")
        self.mean = total / self.num_tokens
        self.deviation = np.sqrt(np.maximum(squares / self.num_tokens - self.mean**2, 1e-12))

    @property
    def kept(self) -> bool:
        """Whether the tokens are in memory."""
        return bool(self._kept)

    def examples(self, order: np.ndarray) -> Iterator[Examples]:
        """Those of the images of these indices."""
        if self._kept:
            yield from (self._kept[int(index)] for index in order)
        else:
            yield from (examples for _, examples in self._encoded(order, title="train again"))

    def _encoded(self, order: np.ndarray, *, title: str) -> Iterator[tuple[int, Examples]]:
        items = masked_tokens(
            self._source,
            self._encoder,
            self._fit,
            batch_size=self._batch_size,
            title=f"{self._encoder.name}, {title}",
            order=order,
        )
        for item in items:
            shares = class_shares(item.mask, patch_size=self._fit.patch_size, num_classes=self.num_classes)
            yield (
                item.index,
                Examples(
                    tokens=item.tokens.reshape(-1, item.tokens.shape[-1]).astype(np.float16),
                    shares=shares.reshape(-1, self.num_classes).astype(np.float16),
                ),
            )


def evaluate(
    encoder: Encoder,
    settings: LinearProbeConfig,
    *,
    batch_size: int,
    data: tuple[MaskedSource, MaskedSource] | None = None,
) -> Scores:
    """mIoU on `val` of the layer trained on `train`; `data` from `open_data` where it is open already.

    Raises:
        UserError: bad input, or every pixel is ignored.
    """
    train, val = data or open_data(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    tokens = TrainTokens(train, encoder, fit, batch_size=batch_size, keep_gib=settings.keep_gib)
    layer = train_layer(tokens, settings, title=encoder.name)
    confusion = np.zeros((val.num_classes, val.num_classes), np.int64)
    for item in masked_tokens(val, encoder, fit, batch_size=batch_size, title=f"{encoder.name}, val"):
        height, width = item.judged.shape
        predicted = upsampled_classes(layer.logits(item.tokens), height=height, width=width, mode="bilinear")
        confusion += confusion_matrix(item.judged, predicted, num_classes=val.num_classes)
    if not confusion.any():
        raise UserError(f"{val.name}: every pixel is ignored; nothing can be judged")
    scores = mask_scores(confusion)
    return Scores(metrics=scores.metrics(), rows=scores.rows(val.class_names))


def open_data(settings: LinearProbeConfig, *, patch_size: int, image_size: int) -> tuple[MaskedSource, MaskedSource]:
    """Train and val.

    Raises:
        UserError: bad input, their classes differ, or the patch does not divide the size.
    """
    make_fit(settings, patch_size=patch_size, image_size=image_size)
    train, val = open_masked(settings.train), open_masked(settings.val)
    check_same_classes(train, val)
    return train, val


def train_layer(train: TrainTokens, settings: LinearProbeConfig, *, title: str = "") -> LinearLayer:
    """The layer after the whole schedule; the seed decides the order of the images in every epoch, and all else is fixed.

    Training starts from the frequencies of the classes, whatever the token. A step takes the tokens of `batch_size` images
    of the full square, or as many of consecutive images of other shapes; the last one of an epoch is filled up with zeros
    that count nothing.
    """
    batch_tokens = settings.batch_size * train.square_tokens
    steps = -(-train.num_tokens // batch_tokens) * settings.epochs
    warmup = min(max(1, round(_WARMUP * steps)), steps - 1) if steps > 1 else 0
    rate = optax.warmup_cosine_decay_schedule(0.0 if warmup else settings.lr, settings.lr, warmup, steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay, mask={"weights": True, "bias": False})
    mean, deviation = (np.asarray(value, np.float32) for value in (train.mean, train.deviation))
    params = {
        "weights": jnp.zeros((mean.shape[0], train.num_classes)),
        "bias": jnp.log(jnp.asarray(np.maximum(train.class_mass, 1.0) / train.class_mass.sum(), jnp.float32)),
    }
    state = optimizer.init(params)
    step = _make_step(optimizer, mean=mean, deviation=deviation)
    rng = np.random.default_rng(settings.seed)
    for _ in tqdm(range(settings.epochs), desc=f"{title}, linear layer", unit="epoch", disable=None):
        order = rng.permutation(train.num_images)
        for tokens, shares in _batches(train.examples(order), size=batch_tokens):
            params, state = step(params, state, tokens, shares)
    weights = np.asarray(params["weights"]) / deviation[:, None]
    return LinearLayer(weights=weights, bias=np.asarray(params["bias"]) - mean @ weights)


def _make_step(optimizer: optax.GradientTransformation, *, mean: np.ndarray, deviation: np.ndarray) -> Any:
    def loss(params: dict[str, Array], tokens: Array, shares: Array) -> Array:
        standard = (tokens.astype(jnp.float32) - mean) / deviation
        logits = jnp.matmul(standard, params["weights"], precision="highest") + params["bias"]
        shares = shares.astype(jnp.float32)
        return -jnp.sum(shares * jax.nn.log_softmax(logits)) / jnp.maximum(jnp.sum(shares), 1.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: dict[str, Array], state: Any, tokens: Array, shares: Array) -> tuple[dict[str, Array], Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, tokens, shares), state, params)
        return optax.apply_updates(params, updates), state

    return step


def _batches(examples: Iterable[Examples], *, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and shares in blocks of `size` rows."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    held = 0
    for item in examples:
        waiting.append((item.tokens, item.shares))
        held += len(item.tokens)
        while held >= size:
            joined = tuple(np.concatenate(parts) for parts in zip(*waiting))
            yield joined[0][:size], joined[1][:size]
            waiting, held = [(joined[0][size:], joined[1][size:])], held - size
    if held:
        tokens, shares = (np.concatenate(parts) for parts in zip(*waiting))
        yield np.pad(tokens, ((0, size - held), (0, 0))), np.pad(shares, ((0, size - held), (0, 0)))
