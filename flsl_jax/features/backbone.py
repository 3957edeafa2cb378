"""The model that `flsl_jax.load` returns: a ViT that knows its images, with its features as compiled methods."""

import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from flsl_jax.data.images.levels import Decoding
from flsl_jax.errors import UserError
from flsl_jax.features.batching import map_by_shape
from flsl_jax.features.fitting import Fit
from flsl_jax.features.preprocessing import normalised, read_pixels
from flsl_jax.models import Architecture, ViT
from flsl_jax.objective import mean_shift
from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Float

log = logging.getLogger(__name__)

Images = Array | np.ndarray


class Backbone(ViT):
    """A trained ViT, for frozen features of images of any size.

    `model(images)` is `model.tokens(images)`. Every method is compiled once for each shape of images, and can be called inside
    `jax.jit` and `jax.grad` too. Parameters are read anew at each call, so that a change of them counts.

    Attributes:
        architecture: `flsl_jax.models.Architecture`: patch size p, width D, depth L, heads, number P of prefix tokens.
        patch_size: p, in pixels.
        mean, std: of pixel levels from 0 to 1, as the images of its training were normalised, for each of C channels.
        image_size: height and width in pixels of the images that it was trained on.
        inv_temp: τ of the mean shift that it was trained with, a factor of products of tokens; None for a weight file that
            does not say it, as those that `convert` writes do (a bare `.pth` of DINOv2's has no place for it).
        decoding: how files are read for it: `decoding.channels` C, 3 for colour, and `decoding.window`; docs/data.md, "Bands
            and levels".

    All methods take `images`, float [B, H, W, C], normalised by `mean` and `std`, as `flsl_jax.preprocess` gives them;
    p must divide H and W. Integers are refused. Values that no normalised image has are computed, and named in the log once.

    Example:
        >>> model = flsl_jax.load("runs/mine")
        >>> images = flsl_jax.preprocess("photo.jpg", model)
        >>> images.shape
        (1, 32, 48, 3)
        >>> model(images).shape, model.patch_size
        ((1, 4, 6, 32), 8)
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: int,
        inv_temp: float | None = None,
        decoding: Decoding | None = None,
        **computing: Any,
    ) -> None:
        super().__init__(architecture, **computing)
        self.decoding = decoding or Decoding(channels=architecture.channels)
        self.mean, self.std, self.image_size, self.inv_temp = tuple(mean), tuple(std), image_size, inv_temp

    @property
    def patch_size(self) -> int:
        """Height and width of a patch in pixels."""
        return self.architecture.patch_size

    def __call__(self, images: Images, *, drop_path_draws: Array | None = None) -> Float[Array, "B h w D"]:
        """See `tokens`; `drop_path_draws` are those of `ViT`, for training."""
        return self._read(images, _tokens, drop_path_draws)

    def tokens(self, images: Images) -> Float[Array, "B h w D"]:
        """One feature for each patch, after the final LayerNorm if there is one.

        Args:
            images: float [B, H, W, C], normalised; h = H / p and w = W / p.

        Returns:
            float32 [B, h, w, D]. The prefix tokens take part and are left out.

        Raises:
            UserError: `images` are integers or no array.
            ValueError: the patch does not divide H and W, or the shape is not [B, H, W, C].

        Example:
            >>> tokens = model.tokens(images)
            >>> tokens.shape, tokens.dtype.name
            ((1, 4, 6, 32), 'float32')
        """
        return self._read(images, _tokens)

    def modes(self, images: Images, *, inv_temp: float | None = None) -> Float[Array, "B h w D"]:
        """The mode of each token: one mean-shift step `softmax(τ z Zᵀ) Z` among the tokens of its own image (Eq. 4).

        Tokens of one object or area move to nearly the same mode, so modes are smoother than tokens.

        Args:
            images: float [B, H, W, C], normalised.
            inv_temp: τ, 0 or more, a factor of products of tokens. None: that of the training. Where it is not known, tokens
                are l2-normalised first and τ is √D, as for the clusters of evaluations and pictures.

        Returns:
            float32 [B, h, w, D].

        Raises:
            UserError, ValueError: as `tokens`; or τ is below 0.

        Example:
            >>> model.modes(images).shape
            (1, 4, 6, 32)
            >>> sharp = model.modes(images, inv_temp=1e6)  # so sharp that no token moves
            >>> bool(jnp.allclose(sharp, model.tokens(images), atol=1e-4))
            True
        """
        return modes_of(self._read(images, _tokens), inv_temp=self.inv_temp if inv_temp is None else inv_temp)

    def layers(self, images: Images, blocks: Sequence[int], *, norm: bool = False) -> Float[Array, "S B h w D"]:
        """The patches' features after chosen blocks, as segmentation heads take them.

        Args:
            images: float [B, H, W, C], normalised.
            blocks: numbers of blocks from 0 to L - 1, in any order; negative ones count from the last block, -1.
            norm: whether the final LayerNorm is applied to each, as DINOv2's `get_intermediate_layers` does.

        Returns:
            float32 [S, B, h, w, D] for S numbers, in their order.

        Raises:
            UserError: there is no such block, or none is named; or as `tokens`.
            ValueError: as `tokens`.

        Example:
            >>> first, last = model.layers(images, [0, -1])
            >>> last.shape
            (1, 4, 6, 32)
            >>> last = model.layers(images, [-1], norm=True)[0]
            >>> bool(jnp.allclose(last, model.tokens(images), atol=1e-4))
            True
        """
        numbers = tuple(_block(number, depth=self.architecture.depth) for number in blocks)
        if not numbers:
            raise UserError("blocks is empty; name one or more, such as [-1] for the last")
        return self._read(images, _Layers(numbers, norm=norm))

    def attention(self, images: Images, *, block: int = -1) -> Float[Array, "B heads M M"]:
        """How much each token attends to each token in each head of one block: `softmax(q kᵀ / √d)`.

        Args:
            images: float [B, H, W, C], normalised.
            block: its number, from 0; negative numbers count from the last block.

        Returns:
            float32 [B, heads, M, M]: rows, which sum to 1, are the tokens that attend. M = P + h·w: the prefix tokens first (a
            class token before registers), then the patches row by row. With 4 bytes · B · heads · M² it soon is large.

        Raises:
            UserError: there is no such block; or as `tokens`.
            ValueError: as `tokens`.

        Example:
            >>> attention = model.attention(images)
            >>> attention.shape
            (1, 2, 24, 24)
            >>> prefix = model.architecture.num_prefix
            >>> maps = attention[:, :, prefix + 7, prefix:].reshape(1, 2, 4, 6)  # of the patch in row 1 and column 1
            >>> round(float(attention[0, 0, 7].sum()), 3)
            1.0
        """
        return self._read(images, _Attention(_block(block, depth=self.architecture.depth)))

    def each(
        self,
        images: Iterable[Any],
        feature: str | Callable[[Array], Any] = "tokens",
        *,
        size: int | None = None,
        crop: bool = False,
        batch_size: int = 32,
    ) -> Iterator[Any]:
        """Features of images of any size, one image after another, computed in batches of images that have one size.

        Args:
            images: paths of image files, Pillow images, or uint8 arrays [H, W, C], as `flsl_jax.preprocess` takes them, and
                resized as it does.
            feature: "tokens", "modes", or a function of normalised images [b, H, W, C] that gives an array, or a pytree of
                arrays, with a leading axis of b.
            size, crop: as in `flsl_jax.preprocess`.
            batch_size: images computed at a time; 8 times as many are held in memory.

        Yields:
            For each image, in order, its NumPy array [h, w, D], or what `feature` gives, without the leading axis.

        Raises:
            UserError: an image cannot be read, or `feature` is unknown; as soon as its turn comes.

        Example:
            >>> photos = ["photo.jpg", np.zeros((90, 60, 3), np.uint8)]
            >>> [tokens.shape for tokens in model.each(photos)]
            [(4, 6, 32), (6, 4, 32)]
            >>> vectors = [tokens.mean(axis=(0, 1)) for tokens in model.each(photos, "modes", crop=True)]
        """
        if not callable(feature) and feature not in ("tokens", "modes"):
            raise UserError(f'feature is {feature!r}; expected "tokens", "modes" or a function of images')
        function = feature if callable(feature) else getattr(self, feature)
        fit = Fit(patch_size=self.patch_size, size=self.image_size if size is None else size, crop=crop)
        remaining = iter(images)
        while window := [image for _, image in zip(range(8 * batch_size), remaining)]:
            found = map_by_shape(
                lambda pixels: function(normalised(pixels, self)),
                (fit.image(read_pixels(image, self.decoding)) for image in window),
                batch_size=lambda shape: batch_size,
            )
            yield from (result for _, result in sorted(found, key=lambda item: item[0]))

    def _read(self, images: Images, function: Callable[..., Any], *arguments: Any) -> Any:
        _check(images, self)
        graph, params = nnx.split(self, nnx.Param)
        return _computed(nnx.to_pure_dict(params), jnp.asarray(images), *arguments, graph=graph, function=function)


def as_backbone(
    vit: ViT,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    image_size: int = 0,
    inv_temp: float | None = None,
    decoding: Decoding | None = None,
) -> Backbone:
    """A ViT with the same parameters that knows its images; `image_size=0`: that of its position embedding."""
    size = image_size or vit.architecture.grid[0] * vit.architecture.patch_size
    computing = {name: getattr(vit, name) for name in ("drop_path", "dtype", "scan_blocks", "remat")}
    computing["attention"] = vit.attended_by
    model = nnx.eval_shape(
        lambda: Backbone(
            vit.architecture,
            mean=mean,
            std=std,
            image_size=size,
            inv_temp=inv_temp,
            decoding=decoding,
            **computing,
            rngs=nnx.Rngs(0),
        )
    )
    return nnx.merge(nnx.split(model, nnx.Param)[0], nnx.to_pure_dict(nnx.split(vit, nnx.Param)[1]))


def modes_of(tokens: Float[Array, "B h w D"], *, inv_temp: float | None) -> Float[Array, "B h w D"]:
    """The modes of tokens among those of their image, float32; for `inv_temp=None` see `Backbone.modes`.

    Raises:
        ValueError: `inv_temp` is below 0.
    """
    if inv_temp is None:
        return _modes(l2_normalise(tokens), tokens.shape[-1] ** 0.5)
    if inv_temp < 0:
        raise ValueError(f"inv_temp is {inv_temp}; expected 0 or more")
    return _modes(tokens, inv_temp)


@jax.jit
def _modes(tokens: Float[Array, "B h w D"], inv_temp: Array | float) -> Float[Array, "B h w D"]:
    rows = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
    return mean_shift(rows, rows, inv_temp=inv_temp).reshape(tokens.shape)


# Functions of a model and its images, which jit knows again by their values.


def _tokens(model: ViT, images: Array, draws: Array | None = None) -> Array:
    return ViT.__call__(model, images, drop_path_draws=draws)


@dataclasses.dataclass(frozen=True)
class _Layers:
    numbers: tuple[int, ...]
    norm: bool

    def __call__(self, model: ViT, images: Array) -> Array:
        stream = model.intermediates(images)[1 + np.array(self.numbers)]
        return model.norm(stream) if self.norm and model.architecture.final_norm else stream


@dataclasses.dataclass(frozen=True)
class _Attention:
    block: int

    def __call__(self, model: ViT, images: Array) -> Array:
        read = model.attention_inputs(images, block=self.block)
        query = read.query * read.query.shape[-1] ** -0.5
        return jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, read.key, precision="highest"), axis=-1)


@functools.partial(jax.jit, static_argnames=("graph", "function"))
def _computed(params: Any, images: Array, *arguments: Any, graph: nnx.GraphDef, function: Callable[..., Any]) -> Any:
    return function(nnx.merge(graph, params), images, *arguments)


def _block(number: int, *, depth: int) -> int:
    if not -depth <= number < depth:
        raise UserError(
            f"there is no block {number}; the model has {depth}, from 0 to {depth - 1} or from -{depth} to -1"
        )
    return number % depth


# Shapes whose values were looked at, by model; None after a warning.
_LOOKED_AT: weakref.WeakKeyDictionary[Backbone, set[Any] | None] = weakref.WeakKeyDictionary()
_HELP = "flsl_jax.preprocess(images, model) makes them ready"


def _check(images: Any, model: Backbone) -> None:
    """Refuses what is no array of floats, and warns once where the values are no normalised image's.

    Values are looked at on the first call with a shape, because on a device that waits for them.
    """
    if not hasattr(images, "dtype") or not hasattr(images, "shape"):
        raise UserError(f"images are a {type(images).__name__}; expected one array of floats [B, H, W, C]; {_HELP}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images are {images.dtype}; expected floats, normalised as the weights expect; {_HELP}")
    channels = model.architecture.channels
    if len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[-1] != channels == images.shape[1]):
        advice = (
            "one image is images[None]" if len(images.shape) == 3 else "channels last are images.transpose(0, 2, 3, 1)"
        )
        raise ValueError(f"images have shape {images.shape}; expected [B, H, W, {channels}]: {advice}")
    seen = _LOOKED_AT.setdefault(model, set())
    if isinstance(images, Tracer) or seen is None or images.shape in seen or not images.size:
        return
    seen.add(images.shape)
    low, high = float(images.min()), float(images.max())
    black = min(-mean / std for mean, std in zip(model.mean, model.std))
    white = max((1 - mean) / std for mean, std in zip(model.mean, model.std))
    room = white - black
    far = low < black - room or high > white + room
    # A normalised image of some contrast has values on both sides of 0.
    levels = low >= 0 and high <= 1 and high - low > 0.5
    if far or levels:
        kind = (
            "as levels from 0 to 1 that were not normalised have"
            if levels
            else f"expected about {black:.1f} to {white:.1f}"
        )
        log.warning("images have values from %.3g to %.3g, %s; %s", low, high, kind, _HELP)
        _LOOKED_AT[model] = None
