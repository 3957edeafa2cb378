"""Faster R-CNN and Mask R-CNN of torchvision on a pretrained backbone."""

import math
from typing import Any

import torch
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.networks.pyramids import STRIDES, LayerNorm2d, PatchPyramid, SimplePyramid

# One size of anchors a level, in pixels: 8 strides, as in Mask R-CNN with an FPN, in three aspect ratios.
_SIZES = ((32,), (64,), (128,), (256,), (512,))
_RATIOS = ((0.5, 1.0, 2.0),) * len(_SIZES)
# Names of the maps that boxes are pooled from: all but the coarsest.
_POOLED = ["0", "1", "2", "3"]


def patch_detector(
    backbone: Backbone,
    *,
    num_classes: int,
    masks: bool,
    sizes: tuple[int, ...],
    max_size: int,
    channels: int = 256,
    **settings: Any,
) -> FasterRCNN:
    """The detector of SelfPatch and of FLSL's Tables 1 and 3: the patch pyramid, torchvision's heads.

    Args:
        backbone: with four maps.
        num_classes: of objects; torchvision's background is class 0, so labels start at 1.
        masks: whether it is a Mask R-CNN, else a Faster R-CNN.
        sizes: short sides of images in pixels; one of them is drawn for each image in training, and the last is for testing.
        max_size: longest side of images in pixels.
        channels: of the pyramid.
        settings: other arguments of torchvision's class.

    Raises:
        ValueError: the pyramid does not fit the backbone.
    """
    kind = MaskRCNN if masks else FasterRCNN
    common = _common(backbone, num_classes=num_classes, masks=masks, sizes=sizes, max_size=max_size)
    return _with_whole_boxes(kind(PatchPyramid(backbone.network, channels=channels), **common | settings))


def vitdet(
    backbone: Backbone,
    *,
    num_classes: int,
    masks: bool,
    sizes: tuple[int, ...],
    max_size: int,
    channels: int = 256,
    **settings: Any,
) -> FasterRCNN:
    """ViTDet (Li et al. 2022), FLSL's Table 2: simple pyramid, an RPN of two convolutions, heads of four with LayerNorm.

    Images are padded to squares of `max_size`, up to a multiple of 32, so that the grid of tokens is always the same.

    Args:
        backbone: with one map, and with windows and relative positions as in the paper.
        num_classes, masks, sizes, max_size, channels, settings: as of `patch_detector`.

    Raises:
        ValueError: the pyramid does not fit the backbone.
    """
    pyramid = SimplePyramid(backbone.network, channels=channels)
    anchors = AnchorGenerator(_SIZES, _RATIOS)
    parts: dict[str, Any] = {
        "size_divisible": math.ceil(max_size / 32) * 32,
        "rpn_anchor_generator": anchors,
        "rpn_head": RPNHead(channels, anchors.num_anchors_per_location()[0], conv_depth=2),
        "box_head": FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm_layer=LayerNorm2d),
    }
    if masks:
        # torchvision's mask predictor takes 256 channels.
        parts["mask_head"] = MaskRCNNHeads(channels, [256] * 4, 1, norm_layer=LayerNorm2d)
    common = _common(backbone, num_classes=num_classes, masks=masks, sizes=sizes, max_size=max_size)
    return _with_whole_boxes((MaskRCNN if masks else FasterRCNN)(pyramid, **common | parts | settings))


def _with_whole_boxes(model: FasterRCNN) -> FasterRCNN:
    """The model, whose boxes are float32 also where its networks run in half precision.

    torchvision moves boxes in the dtype of the predicted distances. bfloat16 has 8 bits: at 1,000 pixels, steps of 4.
    """
    heads: tuple[Any, ...] = model.rpn.head, model.roi_heads.box_predictor
    for head in heads:
        head.register_forward_hook(lambda module, inputs, outputs: _as_float32(outputs))
    return model


def _as_float32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float()
    return type(outputs)(_as_float32(output) for output in outputs)


def _common(
    backbone: Backbone, *, num_classes: int, masks: bool, sizes: tuple[int, ...], max_size: int
) -> dict[str, Any]:
    # As many proposals in training, and as many points for each bin that is pooled, as mmdetection and detectron2 have.
    pools = {"box_roi_pool": _pool(7)}
    if masks:
        pools["mask_roi_pool"] = _pool(14)
    return pools | {
        "rpn_post_nms_top_n_train": 1000,
        "num_classes": num_classes + 1,
        "min_size": sizes,
        "max_size": max_size,
        "image_mean": list(backbone.mean),
        "image_std": list(backbone.std),
        "rpn_anchor_generator": AnchorGenerator(_SIZES, _RATIOS),
    }


def _pool(bins: int) -> MultiScaleRoIAlign:
    """RoIAlign from the maps of the pyramid, with as many points for each bin as fit.

    torchvision guesses the maps' strides from the first image that it sees, without its padding, and keeps them: after a
    landscape image that was padded to a square, all boxes would be pooled at twice their place.
    """
    pool = MultiScaleRoIAlign(_POOLED, bins, 0)
    pool.scales = [1 / stride for stride in STRIDES]
    pool.map_levels = initLevelMapper(*(round(math.log2(stride)) for stride in (STRIDES[0], STRIDES[-1])))
    return pool
