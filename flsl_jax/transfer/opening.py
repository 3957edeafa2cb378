"""What `--backbone` names: a pretrained network, or one to compare with."""

import logging
from pathlib import Path

from flax import nnx

from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import start_network
from flsl_jax.models import ViT
from flsl_jax.transfer.backbone import Backbone, torch_backbone
from flsl_jax.transfer.config import NetworkConfig
from flsl_jax.transfer.networks import backbone_options, default_blocks
from flsl_jax.weights.load import Loaded, load_network
from flsl_jax.workdir import read_run_config

log = logging.getLogger(__name__)


def open_backbone(source: str, *, network: NetworkConfig, num_heads: int, seed: int) -> Backbone:
    """The backbone of a detector.

    Args:
        source: a run, a checkpoint or a weight file; `untrained:WORKDIR`, or `random:` and one of the former.
        network: what is put on it.
        num_heads: attention heads of a weight file that does not give them; 0: of 64 channels each.
        seed: of random weights.

    Raises:
        UserError: there is nothing that can be opened, or it does not fit the network.
    """
    kind, colon, place = source.partition(":")
    if kind in ("random", "untrained") and not place:
        raise UserError(f"--backbone={source} names no network; write --backbone={kind}:PATH")
    if colon and kind == "untrained":
        config = read_run_config(Path(place), at_start=True)
        loaded = Loaded(
            model=start_network(config, workdir=Path(place)), report=f"what the run in {place} started from"
        )
    else:
        loaded = load_network(place if colon and kind == "random" else source, num_heads=num_heads or None)
        if kind == "random" and colon:
            model = ViT(loaded.model.architecture, rngs=nnx.Rngs(seed))
            loaded = Loaded(
                model=model, mean=loaded.mean, std=loaded.std, report=f"random weights, of the size of {place}"
            )
    depth = loaded.model.architecture.depth
    backbone = torch_backbone(loaded, options=backbone_options(network), blocks=default_blocks(network, depth=depth))
    log.info("%s", backbone.report)
    return backbone
