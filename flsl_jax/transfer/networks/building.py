"""The network that a config describes, on a backbone."""

from torch import nn

from flsl_jax.errors import UserError
from flsl_jax.transfer.config import NetworkConfig, TransferConfig
from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.networks.detectors import patch_detector, vitdet
from flsl_jax.transfer.networks.semantic_fpn import SemanticFpn
from flsl_jax.transfer.networks.vit import BackboneOptions


def backbone_options(network: NetworkConfig) -> BackboneOptions:
    """What the config adds to the pretrained network."""
    grid = network.relative_grid
    return BackboneOptions(
        drop_path=network.drop_path,
        window=network.window,
        global_blocks=network.global_blocks,
        relative_grid=(grid, grid) if grid else None,
        checkpointing=network.checkpointing,
    )


def default_blocks(network: NetworkConfig, *, depth: int) -> tuple[int, ...]:
    """The blocks whose maps the pyramid takes: those of the config, else the last one or four at equal distances."""
    if network.blocks:
        return network.blocks
    if network.pyramid == "simple":
        return (depth - 1,)
    return tuple(-(-depth * part // 4) - 1 for part in (1, 2, 3, 4))


def build_network(config: TransferConfig, *, backbone: Backbone, num_classes: int) -> nn.Module:
    """Detector or segmenter.

    Raises:
        UserError: it does not fit the backbone, such as its patch size.
    """
    kind, augment, channels = config.network.kind, config.augment, config.network.channels
    try:
        if kind == "semantic_fpn":
            flat = config.network.pyramid == "flat"
            return SemanticFpn(backbone, num_classes=num_classes, pyramid_channels=channels, one_scale=flat)
        return (vitdet if config.network.pyramid == "simple" else patch_detector)(
            backbone,
            num_classes=num_classes,
            masks=kind == "mask_rcnn",
            sizes=augment.sizes,
            max_size=augment.max_size,
            channels=channels,
            box_batch_size_per_image=config.network.roi_samples,
        )
    except ValueError as error:
        raise UserError(f"config.network does not fit the backbone: {error}") from error
