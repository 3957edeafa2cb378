"""The frozen backbone of an earlier run that guides the cross-attention of a second stage (METHOD, objective 7)."""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
from flax import nnx

from flsl_jax.data import pixels
from flsl_jax.models import Architecture, ViT
from flsl_jax.objective import gather_tokens, guided_weights
from flsl_jax.typing import Array, Float, Int


@flax.struct.dataclass
class GuideFeatures:
    """The guide's features of untreated pixels: of one size's student views, and of the base crop that they lie in."""

    student: Float[Array, "B V N E"]
    base: Float[Array, "B M E"]

    def weights(self, indices: Int[Array, "B V Q"], *, inv_temp: float, sharpness: float) -> Float[Array, "B V Q M"]:
        """Which tokens of the base crop belong with the queries at `indices`; see `flsl_jax.objective.guided_weights`."""
        weights = functools.partial(guided_weights, inv_temp=inv_temp, sharpness=sharpness)
        return jax.vmap(weights, in_axes=(1, None), out_axes=1)(gather_tokens(self.student, indices), self.base)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuideNetwork:
    """The guide without its parameters, which the training state carries.

    `graph`, `architecture`: of its `ViT`. `block`: whose output is compared (negative: counted from the last). `mean`, `std`:
    of the levels 0 to 1 that it was trained with.
    """

    graph: nnx.GraphDef
    architecture: Architecture
    block: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def features(self, params: Any, images: Float[Array, "*b H W 3"]) -> Float[Array, "*b N E"]:
        """One feature a patch, row by row, of images in levels from 0 to 255."""
        model: ViT = nnx.merge(self.graph, params)
        flat = pixels.normalise(images.reshape(-1, *images.shape[-3:]), mean=self.mean, std=self.std)
        output = model.block_output(flat, block=self.block)
        return output.reshape(*images.shape[:-3], -1, output.shape[-1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guide:
    """A guide whole. `params`: nested dictionaries of NumPy arrays. `report`: what was read, in lines."""

    network: GuideNetwork
    params: Any
    report: str
