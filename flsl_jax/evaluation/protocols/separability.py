"""How well each layer separates what the masks separate (paper, Appendix A; docs/protocols.md, "Separability")."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from flsl_jax.config import SeparabilityConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.mask_fit import class_shares
from flsl_jax.data.truth.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, Images, LayeredEncoder, as_trained
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.meaning import require_classes
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Float, Int


@dataclasses.dataclass(frozen=True)
class Separability:
    """How l2-normalised tokens z are separated into clusters, which the masks give.

    `variance`: mean squared distance of a token to the mean of its cluster. `separation`: the mean over tokens i of the
    mean over the tokens j of its cluster, i included, of Δ_ij = z_iᵀz_j - max over m outside the cluster of z_iᵀz_m
    (Eq. 16). `separated`: the share of the pairs (i, j) with Δ_ij > 0.
    """

    variance: float
    separation: float
    separated: float


def evaluate(
    encoder: Encoder, settings: SeparabilityConfig, *, batch_size: int, data: MaskedSource | None = None
) -> Scores:
    """Separability and clustering indices of every layer, as means over the images that show two labels or more.

    A token's label is the class that most pixels of its patch have; tokens whose pixels are all ignored are left out.
    Layers are the embedded patches, each block's output and, last, the tokens after the final norm.

    Args:
        encoder: whose layers are judged; of one without layers (raw pixels), the tokens alone.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Returns:
        Of the last layer: `separation`, `variance`, `separated`; `nmi` and `ari` of its mean-shift clusters with the labels,
        and the number of these `clusters`. `images`: the images that were counted. A row for each layer.

    Raises:
        UserError: as `open_data`; or no image shows two labels.
    """
    if data is None:
        data = open_data(settings, **as_trained(encoder))
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    names, measured, ignored, pixels = _layer_names(encoder), [], 0, 0
    encode = functools.partial(_all_layers, encoder)
    for image in masked_tokens(data, encode, fit, batch_size=batch_size, title="separability"):
        shares = class_shares(image.mask, patch_size=encoder.patch_size, num_classes=data.num_classes)
        labels = np.where(shares.any(axis=-1), shares.argmax(axis=-1), -1)
        ignored, pixels = ignored + np.count_nonzero(image.mask < 0), pixels + image.mask.size
        if len(np.unique(labels[labels >= 0])) > 1:
            layers = np.split(image.tokens, len(names), axis=-1)
            measured.append([_measure(tokens, labels, settings) for tokens in layers])
    if not measured:
        raise UserError(
            f"{data.name}: no image shows two labels after its resize, which separability needs; use larger images or other "
            "masks"
        )
    means = [
        {key: float(np.mean([image[layer][key] for image in measured])) for key in measured[0][0]}
        for layer in range(len(names))
    ]
    rows = [{"layer": name, **values} for name, values in zip(names, means)]
    metrics = means[-1] | {"images": float(len(measured))}
    return Scores(metrics=metrics, rows=rows, images=len(data), judged={"ignored_share": float(ignored / pixels)})


def open_data(
    settings: SeparabilityConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> MaskedSource:
    """The images with masks.

    Raises:
        UserError: the source cannot be opened or shows fewer than two classes, or the size is not a multiple of the patch.
    """
    fit = make_fit(settings, patch_size=patch_size, image_size=image_size)
    source = open_masked(settings.data, decoding=decoding)
    require_classes(source, fit, key="separability.data")
    return source


def separability(tokens: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"]) -> Separability:
    """The quantities of Appendix A for one image.

    Args:
        tokens: of one image; they are l2-normalised here.
        labels: the cluster of each token; at least two occur.
    """
    rows = unit_vectors(tokens)
    products = rows @ rows.T
    same = labels[:, None] == labels[None]
    delta = products - np.where(same, -np.inf, products).max(axis=1, keepdims=True)
    means = same @ rows / same.sum(axis=1, keepdims=True)
    return Separability(
        variance=float(((rows - means) ** 2).sum(axis=1).mean()),
        separation=float(np.mean(np.where(same, delta, 0).sum(axis=1) / same.sum(axis=1))),
        separated=float((delta[same] > 0).mean()),
    )


def _measure(
    tokens: Float[np.ndarray, "h w D"], labels: Int[np.ndarray, "h w"], settings: SeparabilityConfig
) -> Mapping[str, float]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = labels >= 0
    clusters = mode_clusters(tokens, inv_temp=settings.inv_temp, similarity=settings.mode_similarity)[known]
    found = separability(tokens[known].astype(np.float64), labels[known])
    return {
        "separation": found.separation,
        "variance": found.variance,
        "separated": found.separated,
        "nmi": float(normalized_mutual_info_score(labels[known], clusters)),
        "ari": float(adjusted_rand_score(labels[known], clusters)),
        "clusters": float(len(np.unique(clusters))),
    }


def _layer_names(encoder: Encoder) -> list[str]:
    if not isinstance(encoder, LayeredEncoder):
        return ["tokens"]
    return ["patches", *(f"block {number}" for number in range(1, encoder.depth + 1)), "tokens"]


def _all_layers(encoder: Encoder, images: Images) -> Float[np.ndarray, "b h w E"]:
    """The features of all layers, in the order of their names, one after another along the channels."""
    tokens = encoder.tokens(images)
    if not isinstance(encoder, LayeredEncoder):
        return np.asarray(tokens)
    return np.concatenate([*np.asarray(encoder.layers(images)), np.asarray(tokens)], axis=-1)


TASK = Task(
    name="separability",
    settings=SeparabilityConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Separability (paper, Appendix A): layer by layer, how close are tokens of one label, how far from all others, "
    "and do mean-shift clusters agree with the labels?",
    needs="images with masks (data): a folder of images and one of PNGs with class ids; COCO panoptic; scenes",
)
