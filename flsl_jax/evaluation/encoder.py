"""What an evaluation sees of a model: functions from uint8 images to its frozen features."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax import parallel
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from flsl_jax.models import ViT
from flsl_jax.models.vit import AttentionInputs
from flsl_jax.typing import Array, Float, UInt8

# Levels from 0 to 255; float32 where padding has a level between two whole ones, such as the `blank` of an encoder.
Images = UInt8[np.ndarray, "b H W 3"] | UInt8[Array, "b H W 3"] | Float[np.ndarray, "b H W 3"] | Float[Array, "b H W 3"]


@runtime_checkable
class Encoder(Protocol):
    """Frozen features of images whose height and width the patch divides.

    `name`: what tables call it. `patch_size`: in pixels. `image_size`: height and width that it was trained at.
    Those here also have `on_images`: where set, it is told how many images each call is about to encode, and what it raises
    ends the evaluation.
    """

    name: str
    patch_size: int
    image_size: int

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """One float32 feature a patch; compiled once for each shape of images."""
        ...


class NetworkEncoder:
    """A trained backbone; its tokens are those after the final LayerNorm.

    A batch that this process's devices divide is spread over them, any other goes to one.

    Args:
        model: the backbone, with parameters on any devices of this process.
        name: what tables call it.
        mean, std: of the levels 0 to 1 that it was trained with, red, green and blue.
        inv_temp: τ of the mean shift that it was trained with, where known; it multiplies products of tokens.
    """

    def __init__(
        self,
        model: ViT,
        *,
        name: str,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        inv_temp: float | None = None,
    ) -> None:
        self.name, self.patch_size = name, model.architecture.patch_size
        self.image_size = model.architecture.grid[0] * self.patch_size
        self.depth, self.num_prefix = model.architecture.depth, model.architecture.num_prefix
        self.inv_temp = inv_temp
        self.on_images: Callable[[int], None] | None = None
        self._graph, params = nnx.split(model, nnx.Param)
        self._batch = parallel.local_batch_sharding()
        self._params = jax.device_put(nnx.to_pure_dict(params), parallel.replicated(self._batch.mesh))
        self._mean, self._std = tuple(mean), tuple(std)

    @property
    def blank(self) -> tuple[float, float, float]:
        """The colour that is 0 in every channel after normalisation, in levels from 0 to 255."""
        return tuple(255 * level for level in self._mean)

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """See `Encoder`."""
        return self._run("__call__", images)

    def layers(self, images: Images) -> Float[Array, "S b h w D"]:
        """The residual stream: the embedded patches, then each block's output; S = L + 1, no final norm."""
        return self._run("intermediates", images)

    def attention_inputs(self, images: Images, *, block: int = -1) -> AttentionInputs:
        """Queries, keys and values of one block; see `ViT.attention_inputs`. Prefix tokens, if any, come first."""
        return self._run("attention_inputs", images, block=block)

    def _run(self, method: str, images: Images, **options: Any) -> Any:
        if self.on_images is not None:
            self.on_images(len(images))
        if len(images) % self._batch.mesh.size == 0:
            images = jax.device_put(images, self._batch)
        return _features(
            self._params,
            images,
            graph=self._graph,
            mean=self._mean,
            std=self._std,
            method=method,
            options=tuple(options.items()),
        )


class PixelEncoder:
    """Raw pixels as features, the baseline: each patch's levels less one half, flattened."""

    name = "raw pixels"
    blank = (127.5, 127.5, 127.5)

    def __init__(self, *, patch_size: int, image_size: int) -> None:
        self.patch_size, self.image_size = patch_size, image_size
        self.on_images: Callable[[int], None] | None = None

    def tokens(self, images: Images) -> Float[Array, "b h w E"]:
        """See `Encoder`; E = 3 p²."""
        if self.on_images is not None:
            self.on_images(len(images))
        return pixel_tokens(images, patch_size=self.patch_size)


class NoEncoder:
    """Stands in for an encoder where a task judges what others made: it encodes nothing."""

    name = "no model"
    patch_size = image_size = 0

    def __init__(self) -> None:
        self.on_images: Callable[[int], None] | None = None

    def tokens(self, images: Images) -> Float[Array, "b h w D"]:
        """Raises a TypeError: there is no model."""
        raise TypeError("there is no model to encode images with")


@functools.partial(jax.jit, static_argnames="patch_size")
def pixel_tokens(
    images: UInt8[Array, "b H W 3"] | Float[Array, "b H W 3"], *, patch_size: int
) -> Float[Array, "b h w E"]:
    """Levels from -0.5 to 0.5 of each patch, row by row."""
    batch, height, width, _ = images.shape
    grid = (height // patch_size, width // patch_size)
    levels = jnp.asarray(images, jnp.float32) / 255.0 - 0.5
    levels = levels.reshape(batch, grid[0], patch_size, grid[1], patch_size, 3).transpose(0, 1, 3, 2, 4, 5)
    return levels.reshape(batch, *grid, -1)


@functools.partial(jax.jit, static_argnames=("graph", "mean", "std", "method", "options"))
def _features(
    params: Any,
    images: Array,
    *,
    graph: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    method: str,
    options: tuple[tuple[str, Any], ...],
) -> Any:
    """What a method of the model says of the images; parameters are arguments, so that equal networks compile once."""
    levels = normalise(jnp.asarray(images, jnp.float32), mean=mean, std=std)
    return getattr(nnx.merge(graph, params), method)(levels, **dict(options))
