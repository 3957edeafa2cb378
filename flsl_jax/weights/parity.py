"""Whether a written file computes what the network computes: both run on the same images, block by block."""

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
from flsl_jax.weights.files import read_weights
from flsl_jax.weights.layouts import LAYOUTS, from_layout
from flsl_jax.weights.writing import DTYPES

TOLERANCE = 1e-4
# Height and width over the training size: 160 × 288 for 224 × 224.
_ODD_SHAPE = (5 / 7, 9 / 7)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Patch tokens [B, N, D]: after each block, and after the final norm where there is one."""

    blocks: list[np.ndarray]
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """The network in the other framework: its name, and a function of normalised images [B, H, W, 3]."""

    name: str
    run: Callable[[np.ndarray], Outputs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences after each block and of the tokens, by image size (height, width).

    They are absolute, or relative to the largest value of that output where this exceeds 1: float32 has no more to give.
    """

    counterpart: str
    differences: Mapping[tuple[int, int], tuple[float, ...]]

    @property
    def largest(self) -> float:
        """The largest of all; NaN where any is."""
        return float(np.max([np.max(values) for values in self.differences.values()]))

    @property
    def holds(self) -> bool:
        """Whether all of them are within the tolerance."""
        return self.largest <= TOLERANCE

    def table(self) -> str:
        """Lines for a person: a row for every block, a column for every size."""
        depth = len(next(iter(self.differences.values()))) - 1
        rows = [["block", *(f"{height}×{width}" for height, width in self.differences)]]
        for number in range(depth + 1):
            name = str(number + 1) if number < depth else "tokens"
            rows.append([name, *(f"{values[number]:.1e}" for values in self.differences.values())])
        lines = "\n".join("  " + "".join(cell.ljust(12) for cell in row).rstrip() for row in rows)
        return f"largest difference to {self.counterpart} (tolerance {TOLERANCE:.0e}):\n{lines}"


def odd_size(architecture: Architecture) -> tuple[int, int]:
    """A height and width that are neither square nor those of the training, in pixels."""
    height, width = (
        max(1, round(side * share)) * architecture.patch_size for side, share in zip(architecture.grid, _ODD_SHAPE)
    )
    return height, width


def random_images(size: tuple[int, int]) -> Float[np.ndarray, "1 H W 3"]:
    """One normalised image of noise; the same every time."""
    return np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)


def canonical_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a backbone's canonical tensors."""
    state = nnx.eval_shape(lambda: nnx.split(ViT(architecture, rngs=nnx.Rngs(0)), nnx.Param)[1])
    empty = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nnx.to_pure_dict(state))
    return {name: tensor.shape for name, tensor in backbone_tensors(empty, architecture).items()}


def forward(tensors: Tensors, architecture: Architecture) -> Callable[[np.ndarray], Outputs]:
    """Our own network with canonical tensors, its position embedding among them, as a function of images."""
    arch = dataclasses.replace(architecture, pos_embed="learned")
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


def check_parity(path: Path, *, name: str, network: str, tensors: Tensors, architecture: Architecture) -> Parity:
    """Runs a written file in its framework, or else in the torch twin, beside our own network.

    Args:
        path: the file or folder.
        name: of its format.
        network: which of the file's networks.
        tensors: what was written, canonical, float32.
        architecture: as the target computes it, `pos_resize` and `final_norm` included.
    """
    ours = forward(tensors, architecture)
    theirs = open_counterpart(path, name=name, network=network, architecture=architecture)
    own = tuple(side * architecture.patch_size for side in architecture.grid)
    differences = {}
    for size in (own, odd_size(architecture)):
        images = random_images(size)
        expected, found = ours(images), theirs.run(images)
        pairs = zip([*expected.blocks, expected.tokens], [*found.blocks, found.tokens], strict=True)
        differences[size] = tuple(_difference(*pair) for pair in pairs)
    return Parity(counterpart=theirs.name, differences=differences)


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / max(1.0, np.abs(expected).max()))


def open_counterpart(path: Path, *, name: str, network: str, architecture: Architecture) -> Counterpart:
    """The framework's own class where it is installed (timm, transformers), else the torch twin; loaded strictly.

    Raises:
        ValueError: the framework reports missing, unexpected or mismatched tensors.
    """
    openers = {"timm": _open_timm, "transformers": _open_ijepa, "transformers-vitdet": _open_vitdet}
    try:
        return openers[name](path) if name in openers else _open_twin(path, name, network, architecture)
    except (ImportError, RuntimeError) as error:
        # A framework that is half installed (timm beside a broken torchvision) fails with RuntimeError as it is imported.
        if isinstance(error, RuntimeError) and "torchvision" not in str(error):
            raise
        return _open_twin(path, name, network, architecture)


def _channels_first(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _open_twin(path: Path, name: str, network: str, architecture: Architecture) -> Counterpart:
    import torch

    from flsl_jax.weights.torch_twin import TorchViT

    tensors = read_canonical(path, name=name, network=network, architecture=architecture)
    theirs = dataclasses.replace(architecture, norm_eps=LAYOUTS[name].norm_eps or architecture.norm_eps)
    model = TorchViT(theirs, pos_resize=theirs.pos_resize, final_norm=theirs.final_norm).eval()
    state = {name: torch.from_numpy(np.asarray(tensor, np.float32)) for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=True)

    @torch.inference_mode()
    def run(images: np.ndarray) -> Outputs:
        outputs = model(_channels_first(images))
        return Outputs(blocks=[block.numpy() for block in outputs.blocks], tokens=outputs.tokens.numpy())

    return Counterpart(name=f"the PyTorch twin, PyTorch {torch.__version__}", run=run)


def read_canonical(path: Path, *, name: str, network: str, architecture: Architecture) -> Tensors:
    """Canonical tensors of one network of a written file, in the file's dtype; its head left aside."""
    layout = LAYOUTS[name]
    wrapper = network_prefix(network) if layout.wrapper == "network" else ""
    if path.suffix == ".pth" and layout.wrapper != "network":
        wrapper = f"{layout.wrapper}."
    found = read_weights(path).tensors
    start = wrapper + layout.prefix
    plain = {key.removeprefix(wrapper): tensor for key, tensor in found.items() if key.startswith(start)}
    return from_layout(plain, layout, num_patches=architecture.grid[0] * architecture.grid[1])


def network_prefix(network: str) -> str:
    """What stands before the names of a network in a file that may hold both; DINO's student is wrapped once more."""
    return "student.module." if network == "student" else "teacher."


def _open_timm(path: Path) -> Counterpart:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()

    @torch.inference_mode()
    def run(images: np.ndarray) -> Outputs:
        tokens, blocks = model.forward_intermediates(_channels_first(images), output_fmt="NLC")
        tokens = tokens[:, model.num_prefix_tokens :]
        return Outputs(blocks=[block.numpy() for block in blocks], tokens=tokens.numpy())

    return Counterpart(name=f"timm {timm.__version__} {type(model).__name__}", run=run)


def _open_ijepa(path: Path) -> Counterpart:
    import torch
    import transformers

    model = _from_pretrained(transformers.IJepaModel, path)
    blocks: list[Any] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda module, inputs, output: blocks.append(output))

    @torch.inference_mode()
    def run(images: np.ndarray) -> Outputs:
        blocks.clear()
        tokens = model(_channels_first(images), interpolate_pos_encoding=True).last_hidden_state
        plain = [output[0] if isinstance(output, tuple) else output for output in blocks]
        return Outputs(blocks=[output.numpy() for output in plain], tokens=tokens.numpy())

    return Counterpart(name=f"transformers {transformers.__version__} IJepaModel", run=run)


def _open_vitdet(path: Path) -> Counterpart:
    import torch
    import transformers

    model = _from_pretrained(transformers.VitDetBackbone, path)

    @torch.inference_mode()
    def run(images: np.ndarray) -> Outputs:
        states = model(_channels_first(images), output_hidden_states=True).hidden_states[1:]
        blocks = [state.flatten(2).transpose(1, 2).numpy() for state in states]
        return Outputs(blocks=blocks, tokens=blocks[-1])

    return Counterpart(name=f"transformers {transformers.__version__} VitDetBackbone", run=run)


def _from_pretrained(kind: Any, path: Path) -> Any:
    import torch

    model, report = kind.from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    wrong = {key: sorted(map(str, names)) for key, names in report.items() if names}
    if wrong:
        raise ValueError(f"{kind.__name__} does not take every tensor: {wrong}")
    return model.eval()


def rounding_effect(tensors: Tensors, architecture: Architecture, *, dtype: str) -> float:
    """Largest difference of the tokens, at the training size, that rounding the tensors to `dtype` makes."""
    own = tuple(side * architecture.patch_size for side in architecture.grid)
    rounded = {name: tensor.astype(DTYPES[dtype]).astype(np.float32) for name, tensor in tensors.items()}
    return _token_distance(forward(tensors, architecture), forward(rounded, architecture), size=own)


def resize_effect(tensors: Tensors, architecture: Architecture, *, other: Architecture) -> float:
    """Largest difference of the tokens, at an odd size, between two ways to resize the position embedding."""
    return _token_distance(forward(tensors, architecture), forward(tensors, other), size=odd_size(architecture))


def _token_distance(
    first: Callable[[np.ndarray], Outputs], second: Callable[[np.ndarray], Outputs], *, size: tuple[int, int]
) -> float:
    images = random_images(size)
    return float(np.abs(first(images).tokens - second(images).tokens).max())
