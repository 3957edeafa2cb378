"""Dense nearest-neighbour retrieval: segmentation without training (Balažević et al. 2023, "Hummingbird").

What is computed, and how it differs from the public code: docs/protocols.md, "Dense retrieval".
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.config import RetrievalConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.mask_fit import MaskFit, class_shares
from flsl_jax.data.truth.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.approximate import ApproximateBank, check_index
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.class_names import check_same_classes
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.meaning import judged_pixels, require_classes, require_known
from flsl_jax.evaluation.miou import confusion_matrix, hungarian_match, mask_scores, matched
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.evaluation.upsampling import upsampled_classes
from flsl_jax.typing import Array, Float, Int

# A smaller share of the nearest patches that an approximate index finds is told as a warning.
_FOUND = 0.9


@dataclasses.dataclass(frozen=True)
class Memory:
    """What is searched: `features` of M patches, l2-normalised, and as `labels` the share of each of K classes among the
    pixels of a patch that are not ignored."""

    features: Float[np.ndarray, "M D"]
    labels: Float[np.ndarray, "M K"]


def evaluate(
    encoder: Encoder,
    settings: RetrievalConfig,
    *,
    batch_size: int,
    data: tuple[MaskedSource, MaskedSource] | None = None,
) -> Scores:
    """mIoU on `val` of the classes that a memory of `train` gives.

    Args:
        encoder: its l2-normalised tokens are compared.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Raises:
        UserError: as `open_data`; every pixel of train is ignored, or val has no class of it.
    """
    train, val = data or open_data(settings, **as_trained(encoder))
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    memory = build_memory(train, encoder, fit, settings=settings, batch_size=batch_size)
    known = np.asarray(memory.labels.any(axis=0))
    require_known(val, fit, known, train=train.name)
    bank = _bank(memory, settings)
    labels, found = jax.device_put(memory.labels), []
    confusion, pixels = np.zeros((val.num_classes, val.num_classes), np.int64), 0
    for item in masked_tokens(val, encoder.tokens, fit, batch_size=batch_size, title=f"{encoder.name}, val"):
        height, width, channels = item.tokens.shape
        queries = unit_vectors(item.tokens.reshape(-1, channels))
        cosines, indices = bank.nearest(queries, k=settings.k)
        if isinstance(bank, ApproximateBank) and not found:
            found.append(bank.found(queries, k=settings.k))
        scores = np.asarray(read_out(jnp.asarray(cosines), jnp.asarray(indices), labels, temp=settings.temp)).reshape(
            height, width, -1
        )
        predicted = upsampled_classes(scores, height=item.judged.shape[0], width=item.judged.shape[1], mode="bilinear")
        confusion += confusion_matrix(item.judged, predicted, num_classes=val.num_classes)
        pixels += item.judged.size
    judged = judged_pixels(val, confusion.sum(axis=1), pixels=pixels, key="retrieval.val", known=known)
    if settings.matching == "hungarian":
        scores = mask_scores(matched(confusion, hungarian_match(confusion, by="iou")), absent="zero")
    else:
        scores = mask_scores(confusion)
    warnings = list(judged.warnings)
    if bank.size < settings.k:
        warnings.append(
            f"the memory has {bank.size} patches, fewer than the k of {settings.k}: all of it answers every question"
        )
    if found and found[0] < _FOUND:
        warnings.append(
            f"the index finds {100 * found[0]:.1f} % of the nearest patches; raise probes, or search exactly"
        )
    return Scores(
        metrics=scores.metrics(),
        rows=scores.rows(val.class_names),
        images=len(train) + len(val),
        judged={**judged.facts, **({"neighbours_found": found[0]} if found else {})},
        warnings=warnings,
    )


def open_data(
    settings: RetrievalConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> tuple[MaskedSource, MaskedSource]:
    """Train and val.

    Raises:
        UserError: a source cannot be opened or shows fewer than two classes, their classes differ, the size is not a
            multiple of the patch, or FAISS is missing or does not know the index.
    """
    fit = make_fit(settings, patch_size=patch_size, image_size=image_size)
    if settings.index:
        check_index(settings.index)
    train, val = (open_masked(source, decoding=decoding) for source in (settings.train, settings.val))
    check_same_classes(train, val)
    require_classes(train, fit, key="retrieval.train")
    require_classes(val, fit, key="retrieval.val")
    return train, val


def _bank(memory: Memory, settings: RetrievalConfig) -> Bank | ApproximateBank:
    if settings.index:
        return ApproximateBank(memory.features, description=settings.index, probes=settings.probes)
    return Bank.place([memory.features])


def build_memory(
    source: MaskedSource, encoder: Encoder, fit: MaskFit, *, settings: RetrievalConfig, batch_size: int
) -> Memory:
    """Tokens and soft labels of the source's patches, without patches of which every pixel is ignored.

    With `settings.memory` M > 0, M / I patches (floored, at least one) of each of the I images are kept: those with the
    lowest score. The score is a uniform random number; with "balanced" sampling it is multiplied by the sum, over the
    classes in the patch, of the number of the image's patches that have the class. Patches of rare classes are therefore
    likelier to be kept, as in the public code.

    Raises:
        UserError: no patch is left.
    """
    kept = max(1, settings.memory // len(source)) if settings.memory else 0
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    order: list[int] = []
    for item in masked_tokens(source, encoder.tokens, fit, batch_size=batch_size, title=f"{encoder.name}, memory"):
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
    """For each patch of one image, the sum over its classes of the number of patches that have the class."""
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


TASK = Task(
    name="retrieval",
    settings=RetrievalConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Dense nearest-neighbour retrieval (Hummingbird): do the nearest patches of other images know a pixel's class?",
    needs="images with segmentation masks, for the memory (train) and for the questions (val): a folder of PNG ids, COCO "
    "panoptic, Cityscapes, scenes",
)
