"""From a run or weight file to the backbone of a detector: every tensor taken, or named as left out or new."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from flax import nnx

from flsl_jax.data.records import digest_of
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.transfer.networks.vit import BackboneOptions, DetectorViT
from flsl_jax.weights.canonical import backbone_tensors
from flsl_jax.weights.load import Loaded

_COLOUR = 3


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A pretrained backbone in PyTorch.

    `mean`, `std`: of pixel levels from 0 to 1, as in its training. `report`: what was read, left out and new, in lines.
    `digest`: SHA-256 of the weights that were taken, hexadecimal. `source`: what `--backbone` says; empty where nothing does.
    """

    network: DetectorViT
    mean: tuple[float, ...]
    std: tuple[float, ...]
    report: str
    digest: str
    source: str = ""


def torch_backbone(loaded: Loaded, *, options: BackboneOptions, blocks: Sequence[int]) -> Backbone:
    """The backbone of `flsl_jax.weights.load.load_network` in PyTorch.

    The final norm is left out, because detectors take maps from before it, and so are class token and registers where
    attention is in windows. Relative positions are new and start at 0, so that they change nothing at first.

    Args:
        loaded: the pretrained network.
        options: what fine-tuning adds.
        blocks: numbers of the blocks whose maps are wanted, as `DetectorViT` takes them.

    Raises:
        UserError: the network does not have those blocks, or the options do not fit it.
    """
    arch = loaded.model.architecture
    if arch.channels != _COLOUR:
        raise UserError(
            f"--backbone sees {arch.channels} channel(s), and detectors and segmenters are trained on colour images here; "
            "convert it for a framework that takes others (flsl convert --format=timm or detectron2)"
        )
    if arch.mlp != "gelu" or arch.pos_embed == "rope":
        kind = "rotary positions" if arch.pos_embed == "rope" else "SwiGLU MLPs"
        raise UserError(
            f"the backbone has {kind}, which detectors here cannot be trained with; take one with GELU's MLPs and an "
            "embedding of its positions"
        )
    try:
        network = DetectorViT(arch, options=options, blocks=blocks)
    except ValueError as error:
        raise UserError(f"the backbone cannot be used as asked: {error}") from error
    params = nnx.to_pure_dict(nnx.split(loaded.model, nnx.Param)[1])
    tensors = {name: torch.tensor(tensor) for name, tensor in backbone_tensors(params, arch).items()}
    outcome = network.load_state_dict(tensors, strict=False)
    left_out = [
        name for name in outcome.unexpected_keys if name.startswith("norm.") or (name == "prefix" and options.window)
    ]
    new = [name for name in outcome.missing_keys if ".rel_pos_" in name]
    wrong = {*outcome.unexpected_keys, *outcome.missing_keys} - {*left_out, *new}
    if wrong:
        raise UserError(f"the backbone does not fit the detector's: {', '.join(sorted(wrong)[:4])}")
    lines = [loaded.report, f"maps after blocks {', '.join(map(str, blocks))}"]
    lines += [f"left out: {', '.join(left_out)}"] if left_out else []
    lines += [f"new: {len(new)} relative positions"] if new else []
    return Backbone(
        network=network,
        mean=loaded.mean,
        std=loaded.std,
        report="\n".join(lines),
        digest=_digest({name: tensor for name, tensor in tensors.items() if name not in left_out}, arch),
    )


def _digest(tensors: Mapping[str, torch.Tensor], architecture: Architecture) -> str:
    """A sin-cos embedding is left out: processors differ in its last bits, and the architecture says it."""
    computed = {"pos_embed"} if architecture.pos_embed == "sincos" else set()
    return digest_of(
        *(
            f"{name} {tuple(tensor.shape)} {digest_of(tensor.numpy().tobytes())}"
            for name, tensor in sorted(tensors.items())
            if name not in computed
        )
    )
