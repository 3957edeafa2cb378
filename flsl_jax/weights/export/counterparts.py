"""Runs written files in their own framework if it is installed, otherwise in the PyTorch twin."""

import dataclasses
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from flsl_jax.errors import first_line
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import Tensors
from flsl_jax.weights.export.snippets import load_snippet
from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.renaming import from_layout

log = logging.getLogger(__name__)

# Frameworks whose class the printed code builds: the module of the class, and the package that gives the version. DINO's
# code and the FLSL release are not packages: any other module called vision_transformer would be taken for them.
_CLASSES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "dinov2": ("dinov2.models.vision_transformer", "dinov2"),
        "dinov2-registers": ("dinov2.models.vision_transformer", "dinov2"),
        "dinov3": ("dinov3.models.vision_transformer", "dinov3"),
        "detectron2": ("detectron2.modeling.backbone.vit", "detectron2"),
        "mmdet-vitdet": ("projects.ViTDet.vitdet", "mmdet"),
        "mmseg": ("mmseg.models.backbones.vit", "mmseg"),
        "mmpretrain": ("mmpretrain.models.backbones.vision_transformer", "mmpretrain"),
    }
)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Patch tokens [B, N, D]: after each block, and after the final norm if there is one."""

    blocks: list[np.ndarray]
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Counterpart:
    """The network in the other framework: its name, and a function of normalised images [B, H, W, C]."""

    name: str
    run: Callable[[np.ndarray], Outputs]


def open_counterpart(
    path: Path, *, name: str, network: str, architecture: Architecture, fields: Mapping[str, str]
) -> Counterpart:
    """Opens the framework's own class if it is installed, otherwise the PyTorch twin; every tensor must load.

    Where the framework is installed and does not work, the twin stands in and a warning says why.

    Args:
        path: the written file or folder.
        name: the name of its format.
        network: which network of the file.
        architecture: the network as the target computes it, including `pos_resize` and `final_norm`.
        fields: the values that the format's snippet fills in.

    Raises:
        ValueError: the framework reports missing, unexpected or mismatched tensors.
    """
    openers = {"timm": _open_timm, "transformers": _open_ijepa, "transformers-vitdet": _open_vitdet}
    package = name.partition("-")[0] if name in openers else _CLASSES.get(name, ("", ""))[1]
    if package and importlib.util.find_spec(package):
        try:
            _import_alone(package)
            if name in openers:
                return openers[name](path)
            prefix = architecture.num_prefix
            return _open_printed(path, name=name, network=network, fields=fields, num_prefix=prefix)
        except (ImportError, RuntimeError) as error:
            # A framework with a broken dependency (timm with a broken torchvision) raises RuntimeError when it is imported.
            if isinstance(error, RuntimeError) and "torchvision" not in str(error):
                raise
            why = error.__cause__ or error
            log.warning(
                "%s is installed but cannot be used (%s: %s); the comparison is with a twin in PyTorch instead",
                package, type(why).__name__, first_line(why),
            )  # fmt: skip
    return _open_twin(path, name, network, architecture)


def _import_alone(package: str) -> None:
    """Imports a framework, so that whatever is wrong with it is an ImportError and no error of the conversion."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except Exception as error:
        raise ImportError(f"{package} cannot be imported: {error}") from error


def read_canonical(path: Path, *, name: str, network: str, architecture: Architecture) -> Tensors:
    """Canonical tensors of one network of a written file, in the file's dtype, without its head."""
    layout = LAYOUTS[name]
    wrapper = network_prefix(network) if layout.wrapper == "network" else ""
    if path.suffix == ".pth" and layout.wrapper not in ("network", "bare"):
        wrapper = f"{layout.wrapper}."
    found = read_weights(path).tensors
    start = wrapper + layout.prefix
    plain = {key.removeprefix(wrapper): tensor for key, tensor in found.items() if key.startswith(start)}
    return from_layout(plain, layout, num_patches=architecture.grid[0] * architecture.grid[1])


def network_prefix(network: str) -> str:
    """The prefix of a network's names in a file that may hold both; DINO's student has one wrapper more."""
    return "student.module." if network == "student" else "teacher."


def _open_twin(path: Path, name: str, network: str, architecture: Architecture) -> Counterpart:
    import torch

    from flsl_jax.weights.export.torch_twin import TorchViT

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


def _blocks_of(model: Any) -> Any:
    for name in ("blocks", "layers"):
        if hasattr(model, name):
            return getattr(model, name)
    raise ImportError(f"{type(model).__name__} has neither .blocks nor .layers, whose outputs are compared")


def _open_printed(path: Path, *, name: str, network: str, fields: Mapping[str, str], num_prefix: int) -> Counterpart:
    """The framework's class, built by the printed code itself; a hook on each block collects its output."""
    import torch

    module, package = _CLASSES[name]
    try:
        importlib.import_module(module)
    except Exception as error:  # the mm* packages raise AssertionError for each other's versions
        raise ImportError(f"{package} cannot be imported: {error}") from error
    version = getattr(importlib.import_module(package), "__version__", "")
    load, tokens = load_snippet(name, path=path, network=network, fields=fields).split("\ntokens = ")
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # detectron2's imports of timm
        exec(load, names)
    model = names["model"]
    blocks: list[Any] = []
    for block in _blocks_of(model):
        block.register_forward_hook(lambda module, inputs, output: blocks.append(output))

    @torch.inference_mode()
    def run(images: np.ndarray) -> Outputs:
        blocks.clear()
        names["images"] = _channels_first(images)
        exec(f"tokens = {tokens}", names)
        flat = [block.reshape(len(images), -1, block.shape[-1])[:, num_prefix:].numpy() for block in blocks]
        return Outputs(blocks=flat, tokens=names["tokens"].numpy())

    return Counterpart(name=f"{package} {version} {type(model).__name__}", run=run)


def _channels_first(images: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


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
