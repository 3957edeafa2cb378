"""Dense nearest-neighbour retrieval: segmentation in context, without training (Balažević et al. 2023, "Hummingbird").

As in the public evaluation code, whole images are resized to a square and predictions judged at that size. Unlike there,
the memory is of the images as they are (no augmented copies), ignored pixels are no part of a patch's label rather than
of class 0, and the search is exact.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.config import RetrievalConfig
from flsl_jax.data.mask_fit import MaskFit, class_shares
from flsl_jax.data.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.class_names import check_same_classes
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.miou import confusion_matrix, hungarian_match, mask_scores, matched
from flsl_jax.evaluation.task import Scores
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.evaluation.upsampling import upsampled_classes
from flsl_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Memory:
    """`features` l2-normalised; `labels`: of the pixels of each patch that are not ignored, the share of every class."""

    features: Float[np.ndarray, "M D"]
    labels: Float[np.ndarray, "M K"]


def evaluate(
    encoder: Encoder,
    settings: RetrievalConfig,
    *,
    batch_size: int,
    data: tuple[MaskedSource, MaskedSource] | None = None,
) -> Scores:
    """mIoU of `val` read out of a memory of `train`; `data` from `open_data` where it is open already.

    Raises:
        UserError: bad input, or train has no patch that is not ignored.
    """
    train, val = data or open_data(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    memory = build_memory(train, encoder, fit, settings=settings, batch_size=batch_size)
    bank, labels = Bank.place([memory.features]), jax.device_put(memory.labels)
    confusion = np.zeros((val.num_classes, val.num_classes), np.int64)
    for item in masked_tokens(val, encoder, fit, batch_size=batch_size, title=f"{encoder.name}, val"):
        height, width, channels = item.tokens.shape
        queries = unit_vectors(item.tokens.reshape(-1, channels))
        cosines, indices = bank.nearest(queries, k=settings.k)
        scores = np.asarray(read_out(cosines, indices, labels, temp=settings.temp)).reshape(height, width, -1)
        predicted = upsampled_classes(scores, height=item.judged.shape[0], width=item.judged.shape[1], mode="bilinear")
        confusion += confusion_matrix(item.judged, predicted, num_classes=val.num_classes)
    if not confusion.any():
        raise UserError(f"{val.name}: every pixel is ignored; nothing can be judged")
    if settings.matching == "hungarian":
        scores = mask_scores(matched(confusion, hungarian_match(confusion, by="iou")), absent="zero")
    else:
        scores = mask_scores(confusion)
    return Scores(metrics=scores.metrics(), rows=scores.rows(val.class_names))


def open_data(settings: RetrievalConfig, *, patch_size: int, image_size: int) -> tuple[MaskedSource, MaskedSource]:
    """Train and val.

    Raises:
        UserError: bad input, their classes differ, or the patch does not divide the size.
    """
    make_fit(settings, patch_size=patch_size, image_size=image_size)
    train, val = open_masked(settings.train), open_masked(settings.val)
    check_same_classes(train, val)
    return train, val


def build_memory(
    source: MaskedSource, encoder: Encoder, fit: MaskFit, *, settings: RetrievalConfig, batch_size: int
) -> Memory:
    """Tokens of the source's patches that are not wholly ignored, with their soft labels.

    With `settings.memory` M > 0, of each of the I images M / I patches (floored, at least one) are kept: those whose score
    is lowest, a uniform number times, if "balanced", the sum over the classes in the patch of the number of the image's
    patches with that class. A patch of rare classes is likelier to be kept, as in the public code.

    Raises:
        UserError: no patch is left.
    """
    kept = max(1, settings.memory // len(source)) if settings.memory else 0
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    order: list[int] = []
    for item in masked_tokens(source, encoder, fit, batch_size=batch_size, title=f"{encoder.name}, memory"):
        shares = class_shares(item.mask, patch_size=fit.patch_size, num_classes=source.num_classes)
        shares = shares.reshape(-1, source.num_classes)
        known = shares.sum(axis=1)
        patches = np.flatnonzero(known)
        if kept and patches.size > kept:
            rng = np.random.default_rng([settings.seed, item.index])
            scores = rng.random(patches.size)
            if settings.sampling == "balanced":
                scores = scores * patch_frequencies(shares[patches])
            patches = np.sort(patches[np.argsort(scores, kind="stable")[:kept]])
        features.append(unit_vectors(item.tokens.reshape(-1, item.tokens.shape[-1])[patches]))
        labels.append(shares[patches] / known[patches, None])
        order.append(item.index)
    if not sum(map(len, features)):
        raise UserError(f"{source.name}: every pixel is ignored; the memory would be empty")
    places = np.argsort(order)
    return Memory(
        features=np.concatenate([features[place] for place in places]),
        labels=np.concatenate([labels[place] for place in places]),
    )


def patch_frequencies(shares: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " N"]:
    """Of each patch of one image, the sum over its classes of the number of patches that have the class."""
    occurs = (shares > 0).astype(np.float64)
    return occurs @ occurs.sum(axis=0)


@functools.partial(jax.jit, static_argnames="temp")
def read_out(
    cosines: Float[Array, "Q k"], indices: Int[Array, "Q k"], labels: Float[Array, "M K"], *, temp: float
) -> Float[Array, "Q K"]:
    """Class probabilities: the neighbours' labels weighted by softmax(cos / temp)."""
    weights = jax.nn.softmax(cosines / temp, axis=-1)

    def add(total: Array, neighbour: tuple[Array, Array]) -> tuple[Array, None]:
        weight, index = neighbour
        return total + weight[:, None] * labels[index], None

    # One neighbour after another: all at once would take the memory of queries × k × classes.
    total, _ = jax.lax.scan(add, jnp.zeros((cosines.shape[0], labels.shape[1])), (weights.T, indices.T))
    return total
