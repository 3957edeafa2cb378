"""Semantic FPN (Kirillov et al. 2019) on a pretrained backbone: FLSL's Table 10."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.networks.pyramids import STRIDES, PatchPyramid


class SemanticFpn(nn.Module):
    """A class for every pixel: the maps of an FPN are brought to one size by convolutions with upsampling, and summed.

    The head starts as mmsegmentation's `FPNHead` does, so that all classes are equally likely at first.

    Args:
        backbone: with four maps, of patches of 8 or 16 pixels.
        num_classes: K.
        channels: of the head.
        pyramid_channels: of the FPN.
        dropout: share of the sum's channels that are left out in training.
        one_scale: leaves all four maps at the patches' stride, as the segmentation code of SelfPatch and FLSL does, so that
            logits have that stride too; the head enlarges the later maps all the same and shrinks them again.

    Raises:
        ValueError: the pyramid does not fit the backbone.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: int,
        channels: int = 128,
        pyramid_channels: int = 256,
        dropout: float = 0.1,
        one_scale: bool = False,
    ) -> None:
        super().__init__()
        strides = (backbone.network.architecture.patch_size,) * len(STRIDES) if one_scale else STRIDES
        self.pyramid = PatchPyramid(backbone.network, channels=pyramid_channels, extra=False, strides=strides)
        self.heads = nn.ModuleList(
            _head(self.pyramid.out_channels, channels, doublings=number) for number in range(len(strides))
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        assert self.classify.bias is not None
        nn.init.zeros_(self.classify.bias)
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).reshape(3, 1, 1), persistent=False)
        self._multiple = max(strides)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [B, K, H, W] of RGB images [B, 3, H, W] in levels from 0 to 1, of any size."""
        height, width = images.shape[2:]
        right, bottom = -width % self._multiple, -height % self._multiple
        padded = nn.functional.pad((images - self.mean) / self.std, (0, right, 0, bottom))
        maps = self.pyramid(padded)
        summed = sum(
            interpolate(head(one), size=maps["0"].shape[2:], mode="bilinear", align_corners=False)
            for head, one in zip(self.heads, maps.values(), strict=True)
        )
        logits = self.classify(self.dropout(summed))
        return interpolate(logits, size=padded.shape[2:], mode="bilinear", align_corners=False)[:, :, :height, :width]


def _head(inputs: int, channels: int, *, doublings: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(max(1, doublings)):
        convolution = nn.Conv2d(inputs if number == 0 else channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
