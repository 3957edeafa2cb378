"""A trained detector or segmenter, from the workdir of its run; what the run notes of it beside its config."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from flsl_jax.config.saved import CONFIG_FILE
from flsl_jax.errors import UserError, reason
from flsl_jax.models import Architecture
from flsl_jax.transfer.config import TransferConfig, read_transfer_config
from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.networks.building import backbone_options, build_network, default_blocks
from flsl_jax.transfer.networks.vit import DetectorViT

MODEL_FILE = "model.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model, ready to predict.

    `network`: in evaluation mode, on `device`. `class_names`: of the labels 1, 2, … of a detector, or 0, 1, … of a segmenter;
    `category_ids`: the numbers of a detector's classes in the COCO file that it was trained on, else empty.
    """

    network: nn.Module
    config: TransferConfig
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    device: torch.device


def describe_model(
    backbone: Backbone, *, class_names: tuple[str, ...], category_ids: tuple[int, ...]
) -> dict[str, Any]:
    """What is needed to build the model again, besides its config; plain JSON."""
    architecture = backbone.network.architecture.as_dict()
    values = {"architecture": architecture, "mean": backbone.mean, "std": backbone.std}
    return json.loads(json.dumps(values | {"class_names": class_names, "category_ids": category_ids}))


def check_same_model(description: dict[str, Any], workdir: Path) -> None:
    """Refuses to continue a run with a backbone of another size, or with other classes.

    Raises:
        UserError: names what differs.
    """
    begun = read_json(workdir / MODEL_FILE)
    different = [name for name, value in description.items() if begun.get(name) != value]
    if different:
        raise UserError(
            f"the run in {workdir} was begun with another backbone or other classes ({', '.join(different)} of {MODEL_FILE} "
            "differ); repeat its own command, or take another --workdir"
        )


def load_trained(workdir: Path, *, device: torch.device | None = None) -> Trained:
    """The best model of a run, or its newest one if nothing was measured.

    Args:
        workdir: of the run.
        device: where it predicts; by default the first GPU, or the CPU.

    Raises:
        UserError: the folder is no run of `flsl_jax.transfer`, or has no checkpoint yet.
    """
    description = read_json(workdir / MODEL_FILE)
    config = read_transfer_config(workdir / CONFIG_FILE)
    places = [workdir / "checkpoints" / f"{name}.ckpt" for name in ("best", "newest")]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        raise UserError(f"{workdir} has no checkpoint yet; train it on with its own command")
    values = description["architecture"]
    arch = Architecture(**values | {"grid": tuple(values["grid"])})
    blocks = default_blocks(config.network, depth=arch.depth)
    vit = DetectorViT(arch, options=backbone_options(config.network), blocks=blocks)
    backbone = Backbone(
        network=vit, mean=tuple(description["mean"]), std=tuple(description["std"]), report="", digest=""
    )
    network = build_network(config, backbone=backbone, num_classes=len(description["class_names"]))
    network.load_state_dict(torch.load(place, map_location="cpu", weights_only=True)["model"])
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Trained(
        network=network.to(device).eval(),
        config=config,
        class_names=tuple(description["class_names"]),
        category_ids=tuple(description["category_ids"]),
        device=device,
    )


def read_json(path: Path) -> dict[str, Any]:
    """What a run has written.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}); name the workdir of a run of flsl_jax.transfer"
        ) from error
