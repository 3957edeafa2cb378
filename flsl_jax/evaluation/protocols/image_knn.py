"""Weighted k-NN of whole images on their mean token, beside the dense evaluations (docs/protocols.md, "Image k-NN")."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flsl_jax.config import ImageKnnConfig, SourceConfig
from flsl_jax.data.boxes import ResizeCrop
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.records import Record
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.batches import map_stream
from flsl_jax.evaluation.class_names import translation
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.meaning import knn_warnings, require_labels
from flsl_jax.evaluation.reading import ImageStream, Item
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Float, Int


def open_data(
    settings: ImageKnnConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> tuple[ImageStream, ImageStream]:
    """Opens train and val.

    Raises:
        UserError: the size is not a multiple of the patch, a source cannot be read or has no labels, the two have no class
            in common, or train shows one class alone.
    """
    size = settings.size or image_size
    if size < patch_size or size % patch_size:
        raise UserError(f"image_knn.size is {size}; expected a multiple of the model's patch of {patch_size} px")
    train, val = (_open(source, size=size, decoding=decoding) for source in (settings.train, settings.val))
    require_labels(train.labels(_labels), name=train.name, key="image_knn.train")
    translation(train.class_names, val.class_names, what="image k-NN")
    return train, val


def _open(config: SourceConfig, *, size: int, decoding: Decoding) -> ImageStream:
    return ImageStream(
        open_source(config),
        functools.partial(_prepare, transform=ResizeCrop(size)),
        wanted=lambda record: record.label is not None,
        lacking="no image has a label, which the image k-NN needs; lay images out in one folder per class",
        lacks="no label",
        on_corrupt=config.on_corrupt,
        decoding=decoding,
    )


def _labels(record: Record) -> Sequence[int]:
    return [] if record.label is None else [record.label]


def _prepare(record: Record, pixels: np.ndarray, *, transform: ResizeCrop) -> Item | None:
    """Image and label; None without a label."""
    return None if record.label is None else (transform.image(pixels), np.int32(record.label))


def evaluate(
    encoder: Encoder,
    settings: ImageKnnConfig,
    *,
    batch_size: int,
    data: tuple[ImageStream, ImageStream] | None = None,
) -> Scores:
    """Each image of val takes the class of the k nearest of train, which vote with exp(cos / temp).

    Metrics: `top1` and `top5`, shares from 0 to 1.

    Args:
        encoder: an image's feature is the mean of its tokens, l2-normalised.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Raises:
        UserError: as `open_data`; or no image of val is of a class in train.
    """
    train, val = data or open_data(settings, **as_trained(encoder))
    (bank, bank_labels), (queries, labels) = (
        _encode(encoder, images, batch_size=batch_size) for images in (train, val)
    )
    num_classes = max(len(train.class_names), int(bank_labels.max()) + 1)
    placed = Bank.place([bank], bank_labels)
    votes = placed.vote([queries[:, None, :]], k=settings.k, temp=settings.temp, num_classes=num_classes)
    numbers = translation(train.class_names, val.class_names, what="image k-NN")
    labels = labels if numbers is None else numbers[labels]
    return Scores(
        metrics={
            "top1": float((votes.group[:, 0] == labels).mean()),
            "top5": float((votes.group == labels[:, None]).any(axis=1).mean()),
        },
        images=len(bank) + len(queries),
        warnings=knn_warnings(bank_labels, labels, size=len(bank), k=settings.k, key="image_knn"),
    )


def _encode(
    encoder: Encoder, images: ImageStream, *, batch_size: int
) -> tuple[Float[np.ndarray, "I D"], Int[np.ndarray, " I"]]:
    """The feature and the label of every image."""

    def features(images: np.ndarray, labels: np.ndarray) -> tuple[Array, np.ndarray]:
        return _mean_token(encoder.tokens(images)), labels

    done = list(map_stream(features, images.batches(batch_size), batch_size=batch_size))
    means, labels = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return means, labels


@jax.jit
def _mean_token(tokens: Float[Array, "b h w D"]) -> Float[Array, "b D"]:
    return l2_normalise(jnp.mean(tokens.astype(jnp.float32), axis=(1, 2)))


TASK = Task(
    name="image_knn",
    settings=ImageKnnConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Image k-NN on the mean token: do whole images lie near others of their class?",
    needs="images with class labels, for the bank (train) and for the questions (val): one folder per class, shards, tfds",
)
