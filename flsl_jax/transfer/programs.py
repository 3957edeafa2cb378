"""Trained networks as functions of one image that `torch.export` can read: sizes may vary, and no step depends on a value.

torchvision's own inference branches on how many boxes there are, which a graph cannot. Here its layers are called in the same
order, with the same thresholds, and what has no boxes goes through as a tensor of length 0.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import interpolate, pad, softmax
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, nms

from flsl_jax.transfer.networks.pyramids import STRIDES
from flsl_jax.transfer.networks.semantic_fpn import SemanticFpn
from flsl_jax.transfer.networks.vit import DetectorViT
from flsl_jax.weights.export.torch_twin import Side, Sides

# A predicted mask covers the pixels that it is at least so sure of.
MASK_THRESHOLD = 0.5
# torchvision's: detections with a shorter side, in pixels of the resized image, are left out.
_SMALLEST = 1e-2


@contextlib.contextmanager
def exportable(program: nn.Module) -> Iterator[None]:
    """While it lasts, what ONNX has no operator for is computed by products of matrices: DINO's resizing of positions."""
    vit = next(module for module in program.modules() if isinstance(module, DetectorViT))
    if vit.pos_resize != "bicubic_dino":
        yield
        return
    vit._positions = functools.partial(_dino_positions, vit)
    try:
        yield
    finally:
        del vit._positions


def _dino_positions(vit: DetectorViT, grid: Sides) -> torch.Tensor:
    """The position embedding at another grid, [1, D, h, w], by a scale that is a little too large, as in DINO's code."""
    own = vit.architecture.grid
    # At its own grid it is not resized; 0 and 1 instead of a branch, because a graph has none.
    sides = torch.cat([torch.full((1,), side) for side in grid])
    extra = 0.1 * (sides != torch.tensor(own)).any()
    rows, columns = (_cubic_weights(new, old, extra=extra) for new, old in zip(grid, own, strict=True))
    return torch.einsum("hy,yxd,wx->dhw", rows, vit.pos_embed.unflatten(1, own)[0], columns)[None]


def _cubic_weights(new: Side, old: int, *, extra: torch.Tensor) -> torch.Tensor:
    """How much each of `old` values counts for each of `new` along one axis, by bicubic resizing: [new, old]."""
    place = (torch.arange(new) + 0.5) * (old / (torch.full((1,), new) + extra)) - 0.5
    first = place.floor()
    weights = torch.zeros_like(place)[:, None].expand(-1, old)
    for tap in (-1, 0, 1, 2):
        far = (place - first - tap).abs()
        near = 1.25 * far**3 - 2.25 * far**2 + 1
        beyond = -0.75 * far**3 + 3.75 * far**2 - 6 * far + 3
        at = (first + tap).clamp(0, old - 1)
        weights = weights + torch.where(far <= 1, near, beyond)[:, None] * (at[:, None] == torch.arange(old))
    return weights


class SegmenterProgram(nn.Module):
    """Semantic FPN on one image, as it was measured: resized, classified, and brought back to the image's own size.

    Args:
        network: trained.
        short: short side in pixels to which images are resized.
        long: their long side is at most so long.
    """

    outputs = ("labels", "scores")

    def __init__(self, network: SemanticFpn, *, short: int, long: int) -> None:
        super().__init__()
        self.network = network
        self.limits: tuple[int, int] = (short, long)
        self.mean, self.std = network.mean.flatten().tolist(), network.std.flatten().tolist()

    def resized(self, height: Side, width: Side) -> Sides:
        """Height and width at which an image of this size is classified."""
        rows, columns = (_rounded(height, width, side, *self.limits) for side in (height, width))
        return rows, columns

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From uint8 [3, H, W]: the class of each pixel, int64 [H, W] from 0, and how sure that is, float32 [H, W]."""
        height, width = image.shape[1:]
        size = self.resized(height, width)
        levels = interpolate(image[None].float() / 255, size=size, mode="bilinear", antialias=True)
        logits = interpolate(self.network(levels), size=(height, width), mode="bilinear", align_corners=False)
        scores, labels = softmax(logits[0], dim=0).max(dim=0)
        return labels, scores


def _rounded(height: Side, width: Side, side: Side, short: int, long: int) -> Side:
    """`side` resized so that the short side is `short`, or less where the long one would be above `long`; in whole numbers."""
    least, most = _sorted(height, width)
    return _least((2 * side * short + least) // (2 * least), (2 * side * long + most) // (2 * most))


class DetectorProgram(nn.Module):
    """A detector on one image: resized, normalised and padded as the detector itself does, and boxes in the given image.

    Args:
        network: trained; its sizes and thresholds are taken, but for the buffer `score_threshold`, which can be changed later.
    """

    score_threshold: torch.Tensor

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.network: Any = network
        heads: Any = network.roi_heads
        transform: Any = network.transform
        self.has_masks: bool = heads.mask_head is not None
        self.outputs = ("boxes", "labels", "scores", *(["masks"] if self.has_masks else []))
        self.register_buffer("score_threshold", torch.tensor(float(heads.score_thresh)))
        self.mean, self.std = transform.image_mean, transform.image_std
        self.limits: tuple[int, int] = (transform.min_size[-1], transform.max_size)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """From uint8 [3, H, W], the surest first: boxes float32 [N, 4], x0, y0, x1, y1 in pixels, labels int64 [N] from 0,
        scores float32 [N], and of a Mask R-CNN masks bool [N, H, W]."""
        height, width = image.shape[1:]
        pixels, size = self._prepared(image)
        maps = self.network.backbone(pixels)
        proposals = self._proposals(pixels, list(maps.values()), size)
        pooled = [maps[name] for name in self.network.roi_heads.box_roi_pool.featmap_names]
        boxes, labels, scores = self._detections(pooled, proposals, size)
        found = boxes * (_corners((height, width)) / _corners(size))
        if not self.has_masks:
            return found, labels - 1, scores
        return found, labels - 1, scores, self._masks(pooled, boxes, labels, found, (height, width))

    def resized(self, height: Side, width: Side) -> Sides:
        """Height and width to which an image of this size is brought, rounded down."""
        short, long = self.limits
        least, most = _sorted(height, width)
        rows, columns = (_least(side * short // least, side * long // most) for side in (height, width))
        return rows, columns

    def _prepared(self, image: torch.Tensor) -> tuple[torch.Tensor, Sides]:
        """The normalised image [1, 3, H', W'], resized and padded, and its height and width without the padding."""
        rows, columns = self.resized(*image.shape[1:])
        pixels = self.network.transform.normalize(image.float() / 255)
        resized = interpolate(pixels[None], size=(rows, columns), mode="bilinear", align_corners=False)
        multiple, square = self.network.transform.size_divisible, self.limits[1]
        # A graph does not know that one multiple is enough.
        right, bottom = (
            (multiple if multiple >= square else (side + multiple - 1) // multiple * multiple) - side
            for side in (columns, rows)
        )
        return pad(resized, (0, right, 0, bottom)), (rows, columns)

    def _proposals(self, pixels: torch.Tensor, maps: Sequence[torch.Tensor], size: Sides) -> torch.Tensor:
        """Boxes [R, 4] in the resized image where there may be objects."""
        rpn = self.network.rpn
        objectness, deltas = rpn.head(maps)
        cells = cast(list[torch.Tensor], rpn.anchor_generator.cell_anchors)
        anchors = torch.cat([_anchors(cell, one, pixels) for cell, one in zip(cells, maps, strict=True)])
        counts = [one.shape[1] * one.shape[2] * one.shape[3] for one in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        objectness = objectness[:, 0]
        boxes = _clipped(rpn.box_coder.decode_single(deltas, anchors), size)
        first, kept, levels = 0, [], []
        for level, count in enumerate(counts):
            best = objectness[first : first + count].topk(_least(count, rpn.pre_nms_top_n())).indices
            kept.append(best + first)
            levels.append(torch.full_like(best, level))
            first = first + count
        kept, levels = torch.cat(kept), torch.cat(levels)
        boxes, scores = boxes[kept], objectness[kept].sigmoid()
        large = (_sides(boxes) >= rpn.min_size).all(dim=1).nonzero()[:, 0]
        boxes, scores, levels = boxes[large], scores[large], levels[large]
        best = _best(boxes, scores, levels, size, overlap=rpn.nms_thresh, limit=rpn.post_nms_top_n())
        return boxes[best]

    def _detections(
        self, maps: Sequence[torch.Tensor], proposals: torch.Tensor, size: Sides
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Boxes [N, 4] in the resized image, labels from 1, scores."""
        heads = self.network.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(_pooled(heads.box_roi_pool, maps, proposals)))
        boxes = _clipped(heads.box_coder.decode_single(deltas, proposals).unflatten(1, (-1, 4)), size)[:, 1:]
        scores = softmax(logits, dim=-1)[:, 1:]
        labels = torch.arange(1, logits.shape[1]).expand_as(scores)
        boxes, scores, labels = boxes.flatten(0, 1), scores.flatten(), labels.flatten()
        sure = ((scores > self.score_threshold) & (_sides(boxes) >= _SMALLEST).all(dim=1)).nonzero()[:, 0]
        boxes, scores, labels = boxes[sure], scores[sure], labels[sure]
        best = _best(boxes, scores, labels, size, overlap=heads.nms_thresh, limit=heads.detections_per_img)
        return boxes[best], labels[best], scores[best]

    def _masks(
        self,
        maps: Sequence[torch.Tensor],
        boxes: torch.Tensor,
        labels: torch.Tensor,
        found: torch.Tensor,
        size: Sides,
    ) -> torch.Tensor:
        """Which pixels each object covers, bool [N, H, W]; `found` are its boxes in the given image."""
        heads = self.network.roi_heads
        logits = heads.mask_predictor(heads.mask_head(_pooled(heads.mask_roi_pool, maps, boxes)))
        chosen = logits.gather(1, labels[:, None, None, None].expand(-1, 1, *logits.shape[2:]))[:, 0].sigmoid()
        padded = pad(chosen, (1, 1, 1, 1))
        larger = padded.shape[-1] / chosen.shape[-1]
        middle, half = (found[:, :2] + found[:, 2:]) / 2, _sides(found) / 2 * larger
        start, end = (middle - half).long(), (middle + half).long()
        count = (end - start + 1).clamp(min=1)
        rows, columns = (
            _weights(start[:, axis], count[:, axis], padded.shape[-1], length)
            for axis, length in ((1, size[0]), (0, size[1]))
        )
        return rows @ padded @ columns.transpose(1, 2) >= MASK_THRESHOLD


def _anchors(cell: torch.Tensor, one: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """The anchors of a map, row by row: its cell's [A, 4], moved to each of its places."""
    rows, columns = one.shape[2:]
    place, width = torch.arange(rows * columns), torch.full((1,), columns)
    x, y = place % width * (pixels.shape[3] // columns), place // width * (pixels.shape[2] // rows)
    return (torch.stack([x, y, x, y], dim=1)[:, None] + cell).flatten(0, 1)


def _weights(start: torch.Tensor, count: torch.Tensor, samples: int, length: Side) -> torch.Tensor:
    """How much each of a mask's samples counts for each pixel along one axis, [N, length, samples], by linear resizing.

    The mask lies on `count` pixels from `start` on; other pixels are 0.
    """
    pixel = torch.arange(length) - start[:, None]
    inside = (pixel >= 0) & (pixel < count[:, None])
    place = ((pixel + 0.5) * (samples / count[:, None]) - 0.5).clamp(0, samples - 1)
    near = (1 - (place[:, :, None] - torch.arange(samples)).abs()).clamp(min=0)
    return near * inside[:, :, None]


def _pooled(pool: MultiScaleRoIAlign, maps: Sequence[torch.Tensor], boxes: torch.Tensor) -> torch.Tensor:
    """RoIAlign of each box [R, 4] on the map that fits its size: [R, C, n, n]."""
    area = _sides(boxes).prod(dim=1)
    octave = torch.log2(area.sqrt() / pool.canonical_scale)
    finest, coarsest = (STRIDES.index(stride) for stride in (STRIDES[0], STRIDES[-1]))
    levels = torch.floor(pool.canonical_level - 2 + octave + 1e-6).clamp(finest, coarsest)
    rois = pad(boxes, (1, 0))
    result = maps[0].new_zeros(boxes.shape[0], maps[0].shape[1], *pool.output_size)
    for number, (one, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        chosen = (levels == number).nonzero()[:, 0]
        aligned = torch.ops.torchvision.roi_align(
            one, rois[chosen], 1 / stride, *pool.output_size, pool.sampling_ratio, False
        )
        result = result.index_put((chosen,), aligned)
    return result


def _best(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    groups: torch.Tensor,
    size: Sides,
    *,
    overlap: float,
    limit: int,
) -> torch.Tensor:
    """Indices of the best boxes, best first, that no better one of their group overlaps too much."""
    apart = groups * (_sorted(*size)[1] + 1)
    return nms(boxes + apart[:, None], scores, overlap)[:limit]


def _clipped(boxes: torch.Tensor, size: Sides) -> torch.Tensor:
    """Boxes [..., 4] cut to an image of this height and width."""
    return torch.minimum(boxes.clamp(min=0), _corners(size))


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _corners(size: Sides) -> torch.Tensor:
    """Width, height, width, height as a tensor."""
    width, height = (torch.full((1,), side, dtype=torch.float32) for side in reversed(size))
    return torch.cat([width, height, width, height])


def _least(one: Side, other: Side) -> Side:
    return cast(Any, torch.sym_min(one, other))


def _sorted(one: Side, other: Side) -> Sides:
    """The smaller and the larger."""
    return _least(one, other), cast(Any, torch.sym_max(one, other))
