"""Maps of several scales from a ViT's maps of one scale, for detectors and segmenters."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from flsl_jax.transfer.networks.vit import DetectorViT

# Strides of the maps that detectors see, finest first; the pyramid of a detector has one more, of stride 64.
STRIDES = (4, 8, 16, 32)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of maps [B, C, h, w], with detectron2's ε."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps of the same shape."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def rescaling(
    factor: float, width: int, *, norm: Callable[[int], nn.Module], narrow: bool = False
) -> tuple[nn.Module, int]:
    """A module that makes maps `factor` times as large, and its channels.

    A factor of 4 is two transposed convolutions with a norm and GELU between them, 2 is one, 1 none; 1/2 and 1/4 are
    maximum pools. With `narrow`, each transposed convolution halves the channels, as ViTDet's simple pyramid does.
    """
    if factor <= 1:
        return (nn.Identity() if factor == 1 else nn.MaxPool2d(round(1 / factor))), width
    first = width // 2 if narrow else width
    up = nn.ConvTranspose2d(width, first, 2, stride=2)
    if factor == 2:
        return up, first
    second = first // 2 if narrow else first
    return nn.Sequential(up, norm(first), nn.GELU(), nn.ConvTranspose2d(first, second, 2, stride=2)), second


class PatchPyramid(nn.Module):
    """SelfPatch's pyramid, which FLSL's detectors have: four blocks' maps, each at a scale of its own, then an FPN.

    Args:
        backbone: gives one map for each stride; of patches of 8 or 16 pixels.
        channels: of the pyramid.
        extra: whether a fifth map of stride 64 is added, as detectors want it.
        strides: of the maps in pixels, finest first.

    Raises:
        ValueError: the patches have another size, or the backbone gives another number of maps.
    """

    def __init__(
        self, backbone: DetectorViT, *, channels: int = 256, extra: bool = True, strides: Sequence[int] = STRIDES
    ) -> None:
        super().__init__()
        arch = backbone.architecture
        if arch.patch_size not in (8, 16) or len(backbone.wanted) != len(strides):
            raise ValueError(
                f"patches of {arch.patch_size} pixels and {len(backbone.wanted)} maps; "
                f"expected 8 or 16, and {len(strides)} maps"
            )
        self.backbone, self.out_channels = backbone, channels
        factors = [arch.patch_size / stride for stride in strides]
        self.scales = nn.ModuleList(rescaling(factor, arch.width, norm=nn.BatchNorm2d)[0] for factor in factors)
        self.fpn = FeaturePyramidNetwork(
            [arch.width] * len(strides), channels, extra_blocks=LastLevelMaxPool() if extra else None
        )

    def forward(self, images: torch.Tensor) -> "OrderedDict[str, torch.Tensor]":
        """Maps [B, channels, H / stride, W / stride] by their names "0", "1", …, finest first, and "pool"."""
        maps = [scale(one) for scale, one in zip(self.scales, self.backbone(images), strict=True)]
        return self.fpn(OrderedDict((str(number), one) for number, one in enumerate(maps)))


class SimplePyramid(nn.Module):
    """ViTDet's simple pyramid (Li et al. 2022): every scale from the last map, without connections between scales.

    Args:
        backbone: gives one map, of patches of 16 pixels.
        channels: of the pyramid.

    Raises:
        ValueError: the patches have another size, or the backbone gives several maps.
    """

    def __init__(self, backbone: DetectorViT, *, channels: int = 256) -> None:
        super().__init__()
        arch = backbone.architecture
        if arch.patch_size != 16 or len(backbone.wanted) != 1:
            raise ValueError(
                f"patches of {arch.patch_size} pixels and {len(backbone.wanted)} maps; expected 16, and one map"
            )
        self.backbone, self.out_channels = backbone, channels
        self.scales = nn.ModuleList(_simple_scale(16 / stride, arch.width, channels=channels) for stride in STRIDES)
        self.pool = LastLevelMaxPool()

    def forward(self, images: torch.Tensor) -> "OrderedDict[str, torch.Tensor]":
        """As `PatchPyramid.forward`."""
        (one,) = self.backbone(images)
        maps = [scale(one) for scale in self.scales]
        names = [str(number) for number in range(len(maps))]
        maps, names = self.pool(maps, maps, names)
        return OrderedDict(zip(names, maps, strict=True))


def _simple_scale(factor: float, width: int, *, channels: int) -> nn.Sequential:
    scale, inner = rescaling(factor, width, norm=LayerNorm2d, narrow=True)
    return nn.Sequential(
        scale,
        nn.Conv2d(inner, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
