"""Checks that a written file computes what the network computes: both run on the same images, block by block."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax.models import Architecture, ViT
from flsl_jax.typing import Float
from flsl_jax.weights.canonical import Tensors, backbone_params, backbone_tensors
from flsl_jax.weights.export.counterparts import Outputs, open_counterpart
from flsl_jax.weights.export.writing import DTYPES

TOLERANCE = 1e-4
# Height and width over the training size: 160 × 288 for 224 × 224.
_ODD_SHAPE = (5 / 7, 9 / 7)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences after each block and of the tokens, by image size (height, width).

    They are absolute, or relative to the largest value of that output if it exceeds 1: float32 is not more precise.
    """

    counterpart: str
    differences: Mapping[tuple[int, int], tuple[float, ...]]

    @property
    def largest(self) -> float:
        """The largest of all differences; NaN if one of them is NaN."""
        return float(np.max([np.max(values) for values in self.differences.values()]))

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance."""
        return self.largest <= TOLERANCE

    def table(self) -> str:
        """A table in lines: a row for every block, a column for every size."""
        depth = len(next(iter(self.differences.values()))) - 1
        rows = [["block", *(f"{height}×{width}" for height, width in self.differences)]]
        for number in range(depth + 1):
            name = str(number + 1) if number < depth else "tokens"
            rows.append([name, *(f"{values[number]:.1e}" for values in self.differences.values())])
        lines = "\n".join("  " + "".join(cell.ljust(12) for cell in row).rstrip() for row in rows)
        return f"largest difference from {self.counterpart} (tolerance {TOLERANCE:.0e}):\n{lines}"


def own_size(architecture: Architecture) -> tuple[int, int]:
    """The height and width of the training images, in pixels."""
    height, width = architecture.grid
    return height * architecture.patch_size, width * architecture.patch_size


def odd_size(architecture: Architecture) -> tuple[int, int]:
    """Another height and width than in training, not square, in pixels."""
    height, width = (
        max(1, round(side * share)) * architecture.patch_size for side, share in zip(architecture.grid, _ODD_SHAPE)
    )
    return height, width


def random_images(size: tuple[int, int], *, channels: int = 3) -> Float[np.ndarray, "1 H W C"]:
    """One normalised image of noise; the same every time."""
    return np.random.default_rng(0).normal(size=(1, *size, channels)).astype(np.float32)


def canonical_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's canonical tensors."""
    state = nnx.eval_shape(lambda: nnx.split(ViT(architecture, rngs=nnx.Rngs(0)), nnx.Param)[1])
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nnx.to_pure_dict(state))
    return {name: tensor.shape for name, tensor in backbone_tensors(empty, architecture).items()}


def forward(tensors: Tensors, architecture: Architecture) -> Callable[[np.ndarray], Outputs]:
    """Our own network with canonical tensors, which include the position embedding, as a function of images."""
    arch = architecture.written_out()
    params = jax.tree.map(jnp.asarray, backbone_params(tensors, arch))

    def run(images: np.ndarray) -> Outputs:
        with jax.default_matmul_precision("highest"):
            stream, tokens = _compute(params, images, architecture=arch)
        flat = [np.asarray(part).reshape(len(images), -1, arch.width) for part in (*stream[1:], tokens)]
        return Outputs(blocks=flat[:-1], tokens=flat[-1])

    return run


@functools.partial(jax.jit, static_argnames="architecture")
def _compute(params: Any, images: Any, *, architecture: Architecture) -> tuple[Any, Any]:
    """Residual stream and tokens; compiled once for each architecture and image size."""
    graph = nnx.split(nnx.eval_shape(lambda: ViT(architecture, rngs=nnx.Rngs(0))), nnx.Param)[0]
    model = nnx.merge(graph, params)
    return model.intermediates(images), model(images)


def check_parity(
    path: Path, *, name: str, network: str, tensors: Tensors, architecture: Architecture, fields: Mapping[str, str]
) -> Parity:
    """Compares a written file, run in its framework or in the PyTorch twin, with our own network.

    Args:
        path: the file or folder.
        name: the name of its format.
        network: which network of the file.
        tensors: what was written, canonical, float32.
        architecture: the network as the target computes it, including `pos_resize` and `final_norm`.
        fields: the values that the format's snippet fills in.
    """
    ours = forward(tensors, architecture)
    theirs = open_counterpart(path, name=name, network=network, architecture=architecture, fields=fields)
    differences = {}
    for size in (own_size(architecture), odd_size(architecture)):
        images = random_images(size, channels=architecture.channels)
        expected, found = ours(images), theirs.run(images)
        pairs = zip([*expected.blocks, expected.tokens], [*found.blocks, found.tokens], strict=True)
        differences[size] = tuple(difference(*pair) for pair in pairs)
    return Parity(counterpart=theirs.name, differences=differences)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def rounding_effect(tensors: Tensors, architecture: Architecture, *, dtype: str) -> float:
    """Largest difference of the tokens, at the training size, that rounding the tensors to `dtype` makes."""
    rounded = {name: tensor.astype(DTYPES[dtype]).astype(np.float32) for name, tensor in tensors.items()}
    images = random_images(own_size(architecture), channels=architecture.channels)
    return _token_distance(forward(tensors, architecture), forward(rounded, architecture), images=images)


def resize_effect(tensors: Tensors, architecture: Architecture, *, other: Architecture) -> float:
    """Largest difference of the tokens, at an odd size, between two ways to resize the position embedding."""
    images = random_images(odd_size(architecture), channels=architecture.channels)
    return _token_distance(forward(tensors, architecture), forward(tensors, other), images=images)


def _token_distance(
    first: Callable[[np.ndarray], Outputs], second: Callable[[np.ndarray], Outputs], *, images: np.ndarray
) -> float:
    return float(np.abs(first(images).tokens - second(images).tokens).max())
