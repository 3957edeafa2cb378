"""torchvision's compiled operators in Python, where its build has none: the CPU build of PyTorch has no fitting one."""

import importlib
import importlib.util
import sys

import torch

# torchvision registers shapes for these when it is imported, so they must exist; they are not called here.
_NAMES = (
    "qnms",
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
    _library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    _library.impl("roi_align", _roi_align, "CPU")
    _library.impl("roi_align", _roi_align_shape, "Meta")
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
    """RoIAlign by bilinear sampling of each image's maps; boxes that take equally many points are sampled together.

    Like torchvision's operator under autocast, it computes in the dtype of the boxes and returns the dtype of the maps.
    """
    dtype, maps = maps.dtype, maps.to(rois.dtype)
    height, width = maps.shape[2:]
    pooled = maps.new_zeros(len(rois), maps.shape[1], pooled_height, pooled_width)
    rois = rois.detach()
    shift = 0.5 if aligned else 0.0
    start, end = rois[:, 1:3] * scale - shift, rois[:, 3:5] * scale - shift
    size = end - start if aligned else (end - start).clamp(min=1.0)
    points = torch.full_like(size, sampling_ratio)
    if sampling_ratio <= 0:
        points = (size / size.new_tensor([pooled_width, pooled_height])).ceil().clamp(min=1)
    kinds, kind_of = torch.cat([rois[:, :1], points], dim=1).long().unique(dim=0, return_inverse=True)
    for kind, (image, across, down) in enumerate(kinds.tolist()):
        chosen = (kind_of == kind).nonzero()[:, 0]
        x, y = (
            start[chosen, axis, None]
            + (torch.arange(count, device=maps.device) + 0.5) / count * size[chosen, axis, None]
            for axis, count in ((0, pooled_width * across), (1, pooled_height * down))
        )
        grid = torch.broadcast_tensors(
            2 * x[:, None, :] / max(1, width - 1) - 1, 2 * y[:, :, None] / max(1, height - 1) - 1
        )
        sampled = torch.nn.functional.grid_sample(
            maps[image : image + 1],
            torch.stack(grid, -1).flatten(0, 1)[None],
            padding_mode="border",
            align_corners=True,
        )
        bins = torch.nn.functional.avg_pool2d(sampled[0], (down, across))
        pooled[chosen] = bins.unflatten(1, (len(chosen), pooled_height)).transpose(0, 1)
    return pooled.to(dtype)


def _roi_align_shape(
    maps: torch.Tensor,
    rois: torch.Tensor,
    scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """An empty result, from which `torch.export` takes the shape."""
    return maps.new_empty(rois.shape[0], maps.shape[1], pooled_height, pooled_width)
