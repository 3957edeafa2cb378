"""Linear probe: one linear layer from frozen tokens to the classes of their patches, judged by mIoU.

Tokens are standardised by the mean and deviation of train's tokens, which is a linear map too. The targets are the shares
of the classes among a patch's pixels, so that the cross-entropy with them is a mean over these pixels. Logits are
interpolated to the mask's size, and the largest is the prediction. See docs/protocols.md, "Linear probe".
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from flsl_jax.config import LinearProbeConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.mask_fit import MaskFit, class_shares
from flsl_jax.data.truth.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.class_names import check_same_classes
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.kept_tokens import Example, KeptTokens
from flsl_jax.evaluation.masked_tokens import MaskedTokens, make_fit, masked_tokens
from flsl_jax.evaluation.meaning import judged_pixels, require_classes, require_known
from flsl_jax.evaluation.miou import confusion_matrix, mask_scores
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.upsampling import upsampled_classes
from flsl_jax.typing import Array, Float

# The share of the steps in which the rate rises.
_WARMUP = 0.05

_Params = dict[str, Array]
_Step = Callable[[_Params, Any, np.ndarray, np.ndarray], tuple[_Params, Any]]


@dataclasses.dataclass(frozen=True)
class LinearLayer:
    """Logits = `tokens` @ `weights` + `bias`."""

    weights: Float[np.ndarray, "D K"]
    bias: Float[np.ndarray, " K"]

    def logits(self, tokens: Float[np.ndarray, "*n D"]) -> Float[np.ndarray, "*n K"]:
        """The logits of tokens as the encoder gives them."""
        return tokens @ self.weights + self.bias


class TrainTokens(KeptTokens):
    """Tokens of every image of a source, each with the share of each class among the pixels of its patch, float16 [N, K].

    `class_mass`: the sum of the shares of all tokens.

    Raises:
        UserError: every pixel is ignored.
    """

    def __init__(
        self, source: MaskedSource, encoder: Encoder, fit: MaskFit, *, batch_size: int, keep_gib: float
    ) -> None:
        self.num_classes, self.class_mass = source.num_classes, np.zeros(source.num_classes)
        self.square_tokens = (fit.size // fit.patch_size) ** 2
        super().__init__(source, encoder, fit, batch_size=batch_size, keep_gib=keep_gib)
        if not self.class_mass.any():
            raise UserError(f"{source.name}: every pixel is ignored; there is nothing to learn")

    def target(self, item: MaskedTokens) -> np.ndarray:
        """See `KeptTokens`."""
        shares = class_shares(item.mask, patch_size=self.fit.patch_size, num_classes=self.num_classes)
        return shares.reshape(-1, self.num_classes).astype(np.float16)

    def seen(self, target: np.ndarray) -> None:
        """See `KeptTokens`."""
        self.class_mass += target.sum(axis=0, dtype=np.float64)


def evaluate(
    encoder: Encoder,
    settings: LinearProbeConfig,
    *,
    batch_size: int,
    data: tuple[MaskedSource, MaskedSource] | None = None,
) -> Scores:
    """mIoU on `val` of the layer trained on `train`.

    Args:
        encoder: its tokens are what the layer sees.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Raises:
        UserError: as `open_data`; every pixel of train is ignored, or val has no class of it.
    """
    train, val = data or open_data(settings, **as_trained(encoder))
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    tokens = TrainTokens(train, encoder, fit, batch_size=batch_size, keep_gib=settings.keep_gib)
    known = tokens.class_mass > 0
    require_known(val, fit, known, train=train.name)
    layer = train_layer(tokens, settings, title=encoder.name)
    confusion, pixels = np.zeros((val.num_classes, val.num_classes), np.int64), 0
    for item in masked_tokens(val, encoder.tokens, fit, batch_size=batch_size, title=f"{encoder.name}, val"):
        height, width = item.judged.shape
        predicted = upsampled_classes(layer.logits(item.tokens), height=height, width=width, mode="bilinear")
        confusion += confusion_matrix(item.judged, predicted, num_classes=val.num_classes)
        pixels += item.judged.size
    judged = judged_pixels(val, confusion.sum(axis=1), pixels=pixels, key="linear_probe.val", known=known)
    scores = mask_scores(confusion)
    return Scores(
        metrics=scores.metrics(),
        rows=scores.rows(val.class_names),
        images=len(train) + len(val),
        judged=judged.facts,
        warnings=judged.warnings,
    )


def open_data(
    settings: LinearProbeConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> tuple[MaskedSource, MaskedSource]:
    """Train and val.

    Raises:
        UserError: a source cannot be opened or shows fewer than two classes, their classes differ, or the size is not a
            multiple of the patch.
    """
    fit = make_fit(settings, patch_size=patch_size, image_size=image_size)
    train, val = (open_masked(source, decoding=decoding) for source in (settings.train, settings.val))
    check_same_classes(train, val)
    require_classes(train, fit, key="linear_probe.train")
    require_classes(val, fit, key="linear_probe.val")
    return train, val


def train_layer(train: TrainTokens, settings: LinearProbeConfig, *, title: str = "") -> LinearLayer:
    """The layer after the whole schedule; the seed decides the order of the images in each epoch, and all else is fixed.

    At the start the layer predicts the frequencies of the classes for every token. A step takes as many tokens as
    `batch_size` square images have, from consecutive images; the last step of an epoch is filled up with zeros, which count
    as nothing.
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


def _make_step(optimizer: optax.GradientTransformation, *, mean: np.ndarray, deviation: np.ndarray) -> _Step:
    def loss(params: _Params, tokens: Array, shares: Array) -> Array:
        standard = (tokens.astype(jnp.float32) - mean) / deviation
        logits = jnp.matmul(standard, params["weights"], precision="highest") + params["bias"]
        shares = shares.astype(jnp.float32)
        return -jnp.sum(shares * jax.nn.log_softmax(logits)) / jnp.maximum(jnp.sum(shares), 1.0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: _Params, state: Any, tokens: Array, shares: Array) -> tuple[_Params, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params, tokens, shares), state, params)
        return cast(_Params, optax.apply_updates(params, updates)), state

    return step


def _batches(examples: Iterable[Example], *, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and shares in blocks of `size` rows, the last one filled up with zeros."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    held = 0
    for item in examples:
        tokens = item.tokens.reshape(-1, item.tokens.shape[-1])
        waiting.append((tokens, item.target))
        held += len(tokens)
        while held >= size:
            joined = tuple(np.concatenate(parts) for parts in zip(*waiting))
            yield joined[0][:size], joined[1][:size]
            waiting, held = [(joined[0][size:], joined[1][size:])], held - size
    if held:
        tokens, shares = (np.concatenate(parts) for parts in zip(*waiting))
        yield np.pad(tokens, ((0, size - held), (0, 0))), np.pad(shares, ((0, size - held), (0, 0)))


TASK = Task(
    name="linear_probe",
    settings=LinearProbeConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Linear probe: how well does one linear layer read the classes of the masks from the tokens?",
    needs="images with segmentation masks to train (train) and to judge (val): a folder of PNG ids, COCO panoptic, "
    "Cityscapes, scenes",
)
