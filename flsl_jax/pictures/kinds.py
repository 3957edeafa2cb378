"""Every kind of picture by its name: a function from one model and the images to the panels of its sheets.

What is computed: docs/protocols.md, "Pictures".
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from flsl_jax.config import MODE_SIMILARITY
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, LayeredEncoder
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.pictures.clusters import overlaid_clusters
from flsl_jax.pictures.embedding import patch_colours, tsne_points
from flsl_jax.pictures.images import Query, ShownImage, queries
from flsl_jax.pictures.maps import aggregated_similarity, attention_maps, similarity_map
from flsl_jax.pictures.neighbours import FRAME, framed_patch, nearest_patches
from flsl_jax.pictures.panels import ColourPanel, Line, MapPanel, Panel, PointsPanel, Scale
from flsl_jax.pictures.projection import pca_rgb_of_set
from flsl_jax.typing import Float, UInt8

_FINAL = "tokens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What a person can choose about pictures.

    `places`: queries, in pixels of the image files; none: the default ones. `foreground`: also draw the PCA without the
    background. `inv_temp` and `mode_similarity`: of the mean-shift clusters, see `mode_clusters`. `search`: the images that
    are searched for `neighbours` neighbours; none: the drawn ones. `seed`: of t-SNE.
    """

    places: tuple[tuple[float, float], ...] = ()
    foreground: bool = False
    inv_temp: float = 1.0
    mode_similarity: float = MODE_SIMILARITY
    search: Sequence[ShownImage] = ()
    neighbours: int = 6
    seed: int = 0


Sheets = dict[str, list[Line]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of picture.

    `shows`: what it shows, for a person who has not seen it. `sheets`: makes the lines of each PNG, by its name without
    suffix. `scale`: of its maps. `needs_attention`: whether it is drawn of a `LayeredEncoder` only. `by_ratio`: columns are
    runs, with their υ/η as title and sorted by it. `on_request`: drawn only if a person names it.
    """

    shows: str
    sheets: Callable[[Encoder, Sequence[ShownImage], PictureSettings], Sheets]
    scale: Scale | None = None
    needs_attention: bool = False
    by_ratio: bool = False
    on_request: bool = False


def encode(encoder: Encoder, image: ShownImage) -> Float[np.ndarray, "h w D"]:
    """The tokens of one image, on the host."""
    return np.asarray(encoder.tokens(image.pixels[None]))[0]


def encode_layers(encoder: Encoder, image: ShownImage) -> dict[str, Float[np.ndarray, "h w D"]]:
    """The features of every layer by name: the embedded patches (layer 0), each block's output, and the final tokens.

    An encoder without layers, such as raw pixels, has its tokens alone.
    """
    layers = {}
    if isinstance(encoder, LayeredEncoder):
        stream = np.asarray(encoder.layers(image.pixels[None]))[:, 0]
        layers = {f"layer {number}": tokens for number, tokens in enumerate(stream)}
    return layers | {_FINAL: encode(encoder, image)}


def _ass(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    return {
        f"{image.name}_ass": [
            Line(
                image,
                {
                    name: MapPanel(aggregated_similarity(tokens))
                    for name, tokens in encode_layers(encoder, image).items()
                },
            )
        ]
        for image in images
    }


def _ass_last(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    return {
        "ass_last": [Line(image, {"ASS": MapPanel(aggregated_similarity(encode(encoder, image)))}) for image in images]
    }


def _ratio(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    return {"ratio": _ass_last(encoder, images, settings)["ass_last"]}


def _similarity(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    def lines(image: ShownImage) -> list[Line]:
        tokens = encode(encoder, image)
        return [
            Line(image, {"similarity": MapPanel(similarity_map(tokens, row=row, column=column))}, query)
            for query, row, column in _asked(encoder, image, settings)
        ]

    return {f"{image.name}_similarity": lines(image) for image in images}


def _attention(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    layered = _with_attention(encoder, name="attention")

    def lines(image: ShownImage) -> list[Line]:
        inputs = layered.attention_inputs(image.pixels[None])
        query, key = np.asarray(inputs.query)[0], np.asarray(inputs.key)[0]
        height, width = (side // encoder.patch_size for side in image.pixels.shape[:2])
        made = []
        for place, row, column in _asked(encoder, image, settings):
            maps = attention_maps(query, key, row=row, column=column, grid=(height, width))
            named = {"mean": maps.mean(axis=0)} | {f"head {number}": values for number, values in enumerate(maps, 1)}
            made.append(Line(image, {name: MapPanel(values / values.max()) for name, values in named.items()}, place))
        return made

    return {f"{image.name}_attention": lines(image) for image in images}


def _tsne(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    return {
        f"{image.name}_tsne": [
            Line(
                image,
                {
                    name: _points(tokens, image, encoder.patch_size, settings.seed)
                    for name, tokens in encode_layers(encoder, image).items()
                },
            )
        ]
        for image in images
    }


def _points(tokens: Float[np.ndarray, "h w D"], image: ShownImage, patch_size: int, seed: int) -> PointsPanel:
    points, chosen = tsne_points(tokens, seed=seed)
    return PointsPanel(points, patch_colours(image.colours, patch_size=patch_size)[chosen])


def _pca(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    grids = [encode(encoder, image) for image in images]
    panels = {"PCA": pca_rgb_of_set(grids)}
    if settings.foreground:
        panels["PCA, foreground"] = pca_rgb_of_set(grids, drop_background=True)
    return {
        "pca": [
            Line(image, {name: ColourPanel(_bytes(colours[number])) for name, colours in panels.items()})
            for number, image in enumerate(images)
        ]
    }


def _clusters(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    def line(image: ShownImage) -> Line:
        tokens = encode(encoder, image)
        clusters = mode_clusters(tokens, inv_temp=settings.inv_temp, similarity=settings.mode_similarity)
        return Line(image, {"clusters": overlaid_clusters(image.colours, clusters, tokens)})

    return {"clusters": [line(image) for image in images]}


def _neighbours(encoder: Encoder, images: Sequence[ShownImage], settings: PictureSettings) -> Sheets:
    search = settings.search or images
    grids = [encode(encoder, image) for image in search]

    def panels(image: ShownImage, row: int, column: int, token: Float[np.ndarray, " D"]) -> Mapping[str, Panel]:
        near = nearest_patches(token, grids, k=settings.neighbours, skip=[item.same_as(image) for item in search])
        return {
            f"nearest {rank}": ColourPanel(
                framed_patch(
                    search[found.image].colours, row=found.row, column=found.column, patch_size=encoder.patch_size
                ),
                legend=((FRAME, f"cos {found.cosine:.2f}"),),
                note=search[found.image].name[-20:],
            )
            for rank, found in enumerate(near, 1)
        }

    sheets = {}
    for image in images:
        tokens = encode(encoder, image)
        sheets[f"{image.name}_neighbours"] = [
            Line(image, panels(image, row, column, tokens[row, column]), query)
            for query, row, column in _asked(encoder, image, settings)
        ]
    return sheets


_COSINE = "cosine with the ring"
KINDS: Mapping[str, Kind] = {
    "ass": Kind(
        shows="aggregated similarity score (ASS) of every layer (Fig. 3): bright where many tokens are alike",
        sheets=_ass,
        scale=Scale("ASS", "viridis", high=1.0),
    ),
    "ass_last": Kind(
        shows="ASS of the last layer, one image per row (Fig. 6)",
        sheets=_ass_last,
        scale=Scale("ASS", "viridis", high=1.0),
    ),
    "ratio": Kind(
        shows="ASS of the last layer against υ/η, one run per column (Fig. 5)",
        sheets=_ratio,
        scale=Scale("ASS", "viridis", high=1.0),
        by_ratio=True,
        on_request=True,
    ),
    "similarity": Kind(
        shows="cosine of every token with the token of a query patch",
        sheets=_similarity,
        scale=Scale(_COSINE, "viridis", high=1.0),
    ),
    "attention": Kind(
        shows="where a query patch looks in the last block: every head and their mean (Fig. 4a)",
        sheets=_attention,
        scale=Scale("attention / its maximum", "cividis", low=0.0, high=1.0),
        needs_attention=True,
    ),
    "tsne": Kind(
        shows="t-SNE of the tokens of every layer (Fig. 4b); a point is a patch, in its mean colour",
        sheets=_tsne,
        on_request=True,
    ),
    "pca": Kind(
        shows="tokens by their first three principal components, as red, green and blue, in one basis for all images",
        sheets=_pca,
    ),
    "clusters": Kind(
        shows="mean-shift clusters of the tokens over the image (--inv_temp and --mode_similarity say how many); pale: smaller "
        "clusters, each in the colour of the one whose mean is most alike",
        sheets=_clusters,
    ),
    "neighbours": Kind(
        shows="the patches of other images that are nearest to a query patch", sheets=_neighbours, on_request=True
    ),
}


def check_kind(name: str, encoders: Sequence[Encoder], images: Sequence[ShownImage], settings: PictureSettings) -> None:
    """Refuses a picture that is not possible for a model or the images, before anything is encoded.

    Raises:
        UserError: names the model, or what is missing.
    """
    kind = KINDS[name]
    for encoder in encoders:
        if kind.needs_attention:
            _with_attention(encoder, name=name)
    if name == "neighbours":
        search = settings.search or images
        for image in images:
            if all(item.same_as(image) for item in search):
                raise UserError(
                    f"--pictures=neighbours: there is no other image than {image.name} to search; give more --images, or "
                    "--search=DIR"
                )


def _with_attention(encoder: Encoder, *, name: str) -> LayeredEncoder:
    """The encoder, if it has attention; otherwise a UserError that names the picture."""
    if not isinstance(encoder, LayeredEncoder):
        raise UserError(f"--pictures={name}: {encoder.name} has no attention; leave it or this picture out")
    return encoder


def _asked(encoder: Encoder, image: ShownImage, settings: PictureSettings) -> list[tuple[Query, int, int]]:
    """The queries of an image, marked at the centre of their patch, each with that patch's row and column."""
    size = encoder.patch_size
    return [(query.centred(size), *query.patch(size)) for query in queries(image, settings.places)]


def _bytes(colours: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.round(255 * colours).astype(np.uint8)
