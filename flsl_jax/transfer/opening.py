"""What `--backbone` names: a pretrained network, or one to compare with."""

import dataclasses
import logging
from pathlib import Path

from flax import nnx

from flsl_jax.config import ReadingConfig, parse_config
from flsl_jax.config.files import config_names, load_config
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import start_network
from flsl_jax.features import as_backbone
from flsl_jax.models import ViT
from flsl_jax.networks import architecture_of
from flsl_jax.transfer.config import NetworkConfig
from flsl_jax.transfer.networks.backbone import Backbone, torch_backbone
from flsl_jax.transfer.networks.building import backbone_options, default_blocks
from flsl_jax.weights.load import Loaded, load_network
from flsl_jax.workdir import read_run_config

log = logging.getLogger(__name__)


def open_backbone(source: str, *, network: NetworkConfig, reading: ReadingConfig, seed: int) -> Backbone:
    """The backbone of a detector.

    Args:
        source: a run, a checkpoint or a weight file; `untrained:WORKDIR`; or `random:` and one of the former or a config.
        network: what is put on it.
        reading: what a weight file does not say, and which network of a run or file is taken.
        seed: of random weights.

    Raises:
        UserError: there is nothing that can be opened, or it does not fit the network.
    """
    kind, colon, place = source.partition(":")
    if kind in ("random", "untrained") and not place:
        raise UserError(f"--backbone={source} names no network; write --backbone={kind}:PATH")
    if colon and kind == "untrained":
        config = read_run_config(Path(place), at_start=True)
        report = f"what the run in {place} started from"
        start = start_network(config, workdir=Path(place))
        loaded = _as_loaded(start, report=report, mean=config.views.mean, std=config.views.std)
    elif colon and kind == "random":
        loaded = _random(place, reading=reading, seed=seed)
    else:
        loaded = load_network(source, **reading.arguments())
    depth = loaded.model.architecture.depth
    backbone = torch_backbone(loaded, options=backbone_options(network), blocks=default_blocks(network, depth=depth))
    log.info("%s", backbone.report)
    if loaded.model.decoding.window is not None:
        log.warning(
            "%s was trained with data.window (%s); here files of 16 bits are read whole: stretch them to 8 bits first",
            source,
            loaded.model.decoding.describe(),
        )
    return dataclasses.replace(backbone, source=source)


def _random(place: str, *, reading: ReadingConfig, seed: int) -> Loaded:
    """Random weights of the size of a config's network, or of a trained one."""
    report = f"random weights, of the size of {place}"
    if Path(place).suffix == ".py" or place in config_names():
        config = parse_config(load_config(place).to_dict())
        drawn = ViT(architecture_of(config), rngs=nnx.Rngs(seed))
        return _as_loaded(drawn, report=report, mean=config.views.mean, std=config.views.std)
    like = load_network(place, **reading.arguments())
    drawn = ViT(like.model.architecture, rngs=nnx.Rngs(seed))
    return _as_loaded(drawn, report=report, mean=like.mean, std=like.std)


def _as_loaded(
    model: ViT,
    *,
    report: str,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Loaded:
    return Loaded(model=as_backbone(model, mean=mean, std=std), mean=mean, std=std, report=report)
