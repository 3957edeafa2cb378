"""What evaluations and pictures need of a model: functions from uint8 images to frozen features."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax import parallel
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from flsl_jax.models import ViT
from flsl_jax.models.vit import AttentionInputs
from flsl_jax.typing import Array, Float, UInt8

# Levels from 0 to 255; float32 where padding has a level between two whole ones, such as the `blank` of an encoder.
Images = UInt8[np.ndarray, "b H W C"] | UInt8[Array, "b H W C"] | Float[np.ndarray, "b H W C"] | Float[Array, "b H W C"]
_Features = TypeVar("_Features")


@runtime_checkable
class Encoder(Protocol):
    """Frozen features of images whose height and width are multiples of the patch size."""

    @property
    def name(self) -> str:
        """What tables and messages call it."""
        ...

    @property
    def patch_size(self) -> int:
        """Height and width of a patch in pixels."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width in pixels of the images that it was trained on."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How files are read for it: the number of its channels, and which values are black and white."""
        ...

    @property
    def blank(self) -> tuple[float, ...]:
        """The colour that is 0 in every channel after the encoder's normalisation, in levels from 0 to 255."""
        ...

    @property
    def inv_temp(self) -> float | None:
        """τ of the mean shift that it was trained with, a factor of products of tokens; None where it is not known."""
        ...

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """One float32 feature for each patch; compiled once for each shape of images."""
        ...


@runtime_checkable
class LayeredEncoder(Encoder, Protocol):
    """An encoder with attention blocks, whose inner features can be read too."""

    @property
    def depth(self) -> int:
        """Number of blocks L."""
        ...

    @property
    def num_prefix(self) -> int:
        """Tokens before the patches in every block, such as a class token or registers."""
        ...

    def layers(self, images: Images) -> Float[Array, "S b h w D"]:
        """The embedded patches, then each block's output without the final norm; S = L + 1."""
        ...

    def attention_inputs(self, images: Images, *, block: int = -1) -> AttentionInputs:
        """Queries, keys and values of one block, prefix tokens first; see `ViT.attention_inputs`."""
        ...


class NetworkEncoder:
    """A trained backbone; its tokens are those after the final LayerNorm.

    A batch whose length is a multiple of this process's devices is spread over them; any other goes to one device.

    Args:
        model: the backbone, with parameters on any devices of this process.
        name: what tables and messages call it.
        mean, std: of the levels 0 to 1 that it was trained with, a number for each channel.
        decoding: how files are read for it; None: as colour, or with as many bands as the mean has numbers.
        inv_temp: τ of the mean shift that it was trained with, a factor of products of tokens; None where it is not known.
        image_size: height and width in pixels of the images that it was trained on; None: those of which its position
            embedding has the tokens.
    """

    def __init__(
        self,
        model: ViT,
        *,
        name: str,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        decoding: Decoding | None = None,
        inv_temp: float | None = None,
        image_size: int | None = None,
    ) -> None:
        self.name, self.patch_size = name, model.architecture.patch_size
        self.image_size = image_size or model.architecture.grid[0] * self.patch_size
        self.depth, self.num_prefix = model.architecture.depth, model.architecture.num_prefix
        self.inv_temp = inv_temp
        self._graph, params = nnx.split(model, nnx.Param)
        self._batch = parallel.local_batch_sharding()
        self._params = jax.device_put(nnx.to_pure_dict(params), parallel.replicated(self._batch.mesh))
        self._mean, self._std = tuple(mean), tuple(std)
        self.decoding = decoding or Decoding(channels=len(self._mean))

    @property
    def blank(self) -> tuple[float, ...]:
        """See `Encoder`."""
        return tuple(255 * mean for mean in self._mean)

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """See `Encoder`."""
        return self._read(images, ViT.__call__)

    def layers(self, images: Images) -> Float[Array, "S b h w D"]:
        """See `LayeredEncoder`."""
        return self._read(images, ViT.intermediates)

    def attention_inputs(self, images: Images, *, block: int = -1) -> AttentionInputs:
        """See `LayeredEncoder`."""
        return self._read(images, _AttentionOf(block))

    def _read(self, images: Images, function: Callable[[ViT, Array], _Features]) -> _Features:
        if len(images) % self._batch.num_devices == 0:
            images = jax.device_put(images, self._batch)
        return _features(self._params, images, graph=self._graph, mean=self._mean, std=self._std, function=function)


class PixelEncoder:
    """Raw pixels as features, the baseline: the levels of each patch from -0.5 to 0.5 in one vector."""

    name = "raw pixels"
    inv_temp: float | None = None

    def __init__(self, *, patch_size: int, image_size: int, decoding: Decoding = RGB) -> None:
        self.patch_size, self.image_size, self.decoding = patch_size, image_size, decoding
        self.blank = (127.5,) * decoding.channels

    def tokens(self, images: Images) -> Float[Array, "b h w E"]:
        """See `Encoder`; E = C p²."""
        return pixel_tokens(images, patch_size=self.patch_size)


class NoEncoder:
    """Takes the place of an encoder where a task judges finished predictions: it encodes nothing."""

    name = "no model"
    patch_size = image_size = 0
    decoding = RGB
    blank = (0.0, 0.0, 0.0)
    inv_temp: float | None = None

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """Raises a TypeError: there is no model."""
        raise TypeError("there is no model to encode images with")


def as_trained(encoder: Encoder) -> dict[str, Any]:
    """What `task.OpenData` is told of an encoder: how the images of its training were."""
    return {"patch_size": encoder.patch_size, "image_size": encoder.image_size, "decoding": encoder.decoding}


def watched(encoder: Encoder, before: Callable[[int], None]) -> Encoder:
    """An encoder with the same features that announces each batch; where `encoder` has layers, so has the result.

    Args:
        encoder: what encodes.
        before: called with the number of images before each batch is encoded; what it raises reaches the caller.
    """
    return _WatchedLayers(encoder, before) if isinstance(encoder, LayeredEncoder) else _Watched(encoder, before)


class _Watched:
    """See `watched`."""

    def __init__(self, encoder: Encoder, before: Callable[[int], None]) -> None:
        self.name, self.patch_size, self.image_size = encoder.name, encoder.patch_size, encoder.image_size
        self.blank, self.decoding, self.inv_temp = encoder.blank, encoder.decoding, encoder.inv_temp
        self._encoder, self._before = encoder, before

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        self._before(len(images))
        return self._encoder.tokens(images)


class _WatchedLayers(_Watched):
    """See `watched`."""

    def __init__(self, encoder: LayeredEncoder, before: Callable[[int], None]) -> None:
        super().__init__(encoder, before)
        self.depth, self.num_prefix = encoder.depth, encoder.num_prefix
        self._layered = encoder

    def layers(self, images: Images) -> Float[Array, "S b h w D"]:
        self._before(len(images))
        return self._layered.layers(images)

    def attention_inputs(self, images: Images, *, block: int = -1) -> AttentionInputs:
        self._before(len(images))
        return self._layered.attention_inputs(images, block=block)


@functools.partial(jax.jit, static_argnames="patch_size")
def pixel_tokens(
    images: UInt8[Array, "b H W C"] | Float[Array, "b H W C"], *, patch_size: int
) -> Float[Array, "b h w E"]:
    """Levels from -0.5 to 0.5 of each patch, row by row."""
    batch, height, width, channels = images.shape
    grid = (height // patch_size, width // patch_size)
    levels = jnp.asarray(images, jnp.float32) / 255.0 - 0.5
    levels = levels.reshape(batch, grid[0], patch_size, grid[1], patch_size, channels).transpose(0, 1, 3, 2, 4, 5)
    return levels.reshape(batch, *grid, -1)


@dataclasses.dataclass(frozen=True)
class _AttentionOf:
    """`ViT.attention_inputs` of one block, as a function that jit knows again."""

    block: int

    def __call__(self, model: ViT, levels: Array) -> AttentionInputs:
        return model.attention_inputs(levels, block=self.block)


@functools.partial(jax.jit, static_argnames=("graph", "mean", "std", "function"))
def _features(
    params: Any,
    images: Array,
    *,
    graph: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    function: Callable[[ViT, Array], Any],
) -> Any:
    """A function of the model and the normalised images; parameters are arguments, so that equal networks compile once."""
    return function(nnx.merge(graph, params), normalise(jnp.asarray(images, jnp.float32), mean=mean, std=std))
