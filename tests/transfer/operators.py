"""torchvision's compiled operators in Python, where its build has none: the CPU build of PyTorch has no fitting one."""

import importlib
import importlib.util
import math
import sys

import torch

# torchvision registers shapes for these when it is imported, so they must exist; only the first one is called here.
_NAMES = (
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "qroi_align",
    "deform_conv2d",
    "_deform_conv2d_backward",
)
_library = torch.library.Library("torchvision", "FRAGMENT")


def install() -> None:
    """Makes torchvision's detectors work without its compiled operators; call it before torchvision is imported."""
    torch.set_num_threads(1)  # tiny networks: more threads wait for each other
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.impl("nms", _nms, "CPU")
    for name in _NAMES:
        _library.define(f"{name}(Tensor any) -> Tensor")
    importlib.import_module("torchvision.ops")
    boxes, align = sys.modules["torchvision.ops.boxes"], sys.modules["torchvision.ops.roi_align"]
    boxes._assert_has_ops = lambda: None
    align._roi_align = _roi_align  # torchvision's own Python form takes a hundred times as long on a CPU


def _nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of the boxes that no better one overlaps by more than the threshold, best first."""
    from torchvision.ops import box_iou

    order = scores.argsort(descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > threshold
    kept = torch.ones(len(order), dtype=torch.bool)
    for index in range(len(order)):
        if kept[index]:
            kept[index + 1 :] &= ~overlaps[index, index + 1 :]
    return order[kept]


def _roi_align(
    maps: torch.Tensor,
    rois: torch.Tensor,
    scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """RoIAlign by bilinear sampling of each image's maps. Without a ratio, all boxes take the points that the largest needs."""
    height, width = maps.shape[2:]
    pooled = maps.new_zeros(len(rois), maps.shape[1], pooled_height, pooled_width)
    if not len(rois):
        return pooled
    rois = rois.detach()
    shift = 0.5 if aligned else 0.0
    start, end = rois[:, 1:3] * scale - shift, rois[:, 3:5] * scale - shift
    size = end - start if aligned else (end - start).clamp(min=1.0)
    if not len(rois):
        return maps.new_zeros(0, maps.shape[1], pooled_height, pooled_width)
    if sampling_ratio <= 0:
        sampling_ratio = max(1, math.ceil(float((size / size.new_tensor([pooled_width, pooled_height])).max())))
    places = [
        (torch.arange(bins * sampling_ratio, device=maps.device) + 0.5) / (bins * sampling_ratio)
        for bins in (pooled_width, pooled_height)
    ]
    x, y = (start[:, axis, None] + places[axis] * size[:, axis, None] for axis in (0, 1))
    grid = torch.stack(
        torch.broadcast_tensors(2 * x[:, None, :] / max(1, width - 1) - 1, 2 * y[:, :, None] / max(1, height - 1) - 1),
        -1,
    )
    for number in range(len(maps)):
        chosen = (rois[:, 0] == number).nonzero()[:, 0]
        if len(chosen):
            sampled = torch.nn.functional.grid_sample(
                maps[number : number + 1], grid[chosen].flatten(0, 1)[None], padding_mode="border", align_corners=True
            )
            bins = torch.nn.functional.avg_pool2d(sampled[0], sampling_ratio)
            pooled[chosen] = bins.unflatten(1, (len(chosen), pooled_height)).transpose(0, 1)
    return pooled
