"""How far apart the layers of a network keep what masks tell apart (paper, Appendix A), and how its clusters agree with it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from flsl_jax.config import SeparabilityConfig
from flsl_jax.data.mask_fit import class_shares
from flsl_jax.data.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, Images, NetworkEncoder
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.evaluation.task import Scores
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Separability:
    """Of l2-normalised tokens and their clusters by the masks.

    `variance`: mean squared distance of a token to the mean of its cluster. `separation`: mean over tokens i of the mean
    over the tokens j of its cluster, i included, of Δ_ij = z_iᵀz_j - max over m outside the cluster of z_iᵀz_m (Eq. 16).
    `separated`: share of the pairs (i, j) with Δ_ij > 0.
    """

    variance: float
    separation: float
    separated: float


def evaluate(
    encoder: Encoder, settings: SeparabilityConfig, *, batch_size: int, data: MaskedSource | None = None
) -> Scores:
    """Separability and clustering indices of every layer, as means over images that show two labels or more.

    The label of a token is the one that most pixels of its patch have; tokens whose pixels are all ignored are left out.
    Layers are the embedded patches, each block's output and, last, the tokens after the final norm.

    Args:
        encoder: whose layers are looked at; one without (raw pixels) has its tokens alone.
        settings: the protocol.
        batch_size: images encoded at a time.
        data: from `open_data` where it is open already.

    Returns:
        of the last layer's tokens `separation`, `variance`, `separated`, and `nmi`, `ari` and the number of `clusters` of
        their mean-shift clusters against the labels; a row of all of these for each layer.

    Raises:
        UserError: as `open_data`; or no image shows two labels.
    """
    if data is None:
        data = open_data(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    stack = _LayerStack(encoder)
    measured = []
    for image in masked_tokens(data, stack, fit, batch_size=batch_size, title="separability"):
        shares = class_shares(image.mask, patch_size=encoder.patch_size, num_classes=data.num_classes)
        labels = np.where(shares.any(axis=-1), shares.argmax(axis=-1), -1)
        if len(np.unique(labels[labels >= 0])) > 1:
            layers = np.split(image.tokens, len(stack.names), axis=-1)
            measured.append([_measure(tokens, labels, settings) for tokens in layers])
    if not measured:
        raise UserError(
            f"{data.name}: no image shows two labels after its resize, which separability needs; use larger images or other "
            "masks"
        )
    means = [
        {key: float(np.mean([image[layer][key] for image in measured])) for key in measured[0][0]}
        for layer in range(len(stack.names))
    ]
    rows = [{"layer": name, **values} for name, values in zip(stack.names, means)]
    return Scores(metrics=means[-1] | {"images": float(len(measured))}, rows=rows)


def open_data(settings: SeparabilityConfig, *, patch_size: int, image_size: int) -> MaskedSource:
    """The images with masks.

    Raises:
        UserError: the source cannot be opened, or the patch does not divide the size.
    """
    make_fit(settings, patch_size=patch_size, image_size=image_size)
    return open_masked(settings.data)


def separability(tokens: Float[np.ndarray, "N D"], labels: Int[np.ndarray, " N"]) -> Separability:
    """The quantities of Appendix A for one image.

    Args:
        tokens: of any length; they are normalised.
        labels: the cluster of each; at least two occur.
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


class _LayerStack:
    """An encoder whose tokens are those of every layer of another, one after the other along the channels."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.patch_size, self.image_size = encoder.name, encoder.patch_size, encoder.image_size
        self._encoder = encoder
        self.names = ["tokens"]
        if isinstance(encoder, NetworkEncoder):
            self.names = ["patches", *(f"block {number}" for number in range(1, encoder.depth + 1)), "tokens"]

    def tokens(self, images: Images) -> Float[np.ndarray, "b h w E"] | Float[Array, "b h w E"]:
        """See `Encoder`."""
        tokens = self._encoder.tokens(images)
        if not isinstance(self._encoder, NetworkEncoder):
            return tokens
        return np.concatenate([*np.asarray(self._encoder.layers(images)), np.asarray(tokens)], axis=-1)
