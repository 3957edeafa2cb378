"""Semantic FPN (Kirillov et al. 2019) on a pretrained backbone: FLSL's Table 10."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from flsl_jax.transfer.backbone import Backbone
from flsl_jax.transfer.pyramids import STRIDES, PatchPyramid


class SemanticFpn(nn.Module):
    """A class for every pixel: each map of an FPN is brought to stride 4 by convolutions with upsampling, and their sum classified.

    Args:
        backbone: with four maps, of patches of 8 or 16 pixels.
        num_classes: K.
        channels: of the head.
        dropout: share of the sum's channels that are left out in training.

    Raises:
        ValueError: the pyramid does not fit the backbone.
    """

    def __init__(self, backbone: Backbone, *, num_classes: int, channels: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.pyramid = PatchPyramid(backbone.network, extra=False)
        self.heads = nn.ModuleList(
            _head(self.pyramid.out_channels, channels, doublings=stride.bit_length() - STRIDES[0].bit_length())
            for stride in STRIDES
        )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).reshape(3, 1, 1), persistent=False)
        self._multiple = max(STRIDES)

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
        layers += [
            nn.Conv2d(inputs if number == 0 else channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)
