"""What a detector or segmenter reaches: COCO's AP by pycocotools, UAVDT's AP and mIoU by the project's own metrics."""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pycocotools import mask as rle
from pycocotools.cocoeval import COCOeval
from torch import nn
from torch.nn.functional import interpolate
from tqdm import tqdm

from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.evaluation.miou import confusion_matrix, mask_scores
from flsl_jax.transfer.config import AugmentConfig
from flsl_jax.transfer.data.objects import ObjectImages
from flsl_jax.transfer.data.samples import as_levels, measured_size
from flsl_jax.transfer.judging.voc_ap import JudgedImage, voc_ap

# COCOeval's twelve numbers, in its order.
_STATISTICS = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar",
    "ar_small",
    "ar_medium",
    "ar_large",
)
# A predicted mask covers the pixels that it is at least so sure of.
_MASK_THRESHOLD = 0.5
# UAVDT's: a detection is right from this IoU on.
_VOC_IOU = 0.7


@torch.no_grad()
def detect(
    model: nn.Module, images: ObjectImages, *, device: torch.device, indices: Iterable[int]
) -> list[dict[str, Any]]:
    """Detections in COCO's results format: image_id, category_id, bbox, score, and segmentation where the model has masks."""
    model.eval()
    results = []
    for index in indices:
        (found,) = model([as_levels(images.image(index)).to(device)])
        results += coco_results(found, image_id=images.image_ids[index], category_ids=images.category_ids)
    return results


def coco_results(
    found: Mapping[str, torch.Tensor], *, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """What a torchvision detector gives for one image, in COCO's results format; label 1 is the first of `category_ids`."""
    arrays = {name: value.float().cpu().numpy() for name, value in found.items()}
    results = []
    for number, (x0, y0, x1, y1) in enumerate(arrays["boxes"].tolist()):
        result = {
            "image_id": image_id,
            "category_id": category_ids[int(arrays["labels"][number]) - 1],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(arrays["scores"][number]),
        }
        if "masks" in arrays:
            encoded: Any = rle.encode(
                np.asfortranarray((arrays["masks"][number, 0] >= _MASK_THRESHOLD).astype(np.uint8))
            )
            result["segmentation"] = encoded | {"counts": encoded["counts"].decode()}
        results.append(result)
    return results


def average_precision(images: ObjectImages, results: list[dict[str, Any]], *, masks: bool = False) -> dict[str, float]:
    """COCO's numbers from 0 to 1, as "box_ap", "box_ap50", …, and "mask_ap", … where the results have masks; for UAVDT also
    its own, "voc_ap70".

    A number that is not defined, such as the AP of large objects where there are none, is left out.

    Args:
        images: the truth.
        results: all detections, in COCO's results format.
        masks: whether the detector gives masks, which no result says where nothing was found.
    """
    metrics = {}
    masked = all("segmentation" in result for result in results) if results else masks
    kinds: dict[str, Literal["bbox", "segm"]] = {"box": "bbox", "mask": "segm"}
    for name, kind in kinds.items():
        if kind == "segm" and not masked:
            continue
        values = _statistics(images, results, kind=kind)
        metrics |= {f"{name}_{key}": value for key, value in zip(_STATISTICS, values, strict=True) if value >= 0}
    if images.ignored_rule is not None:
        value = voc_ap(_judged(images, results), iou=_VOC_IOU, ignored_rule=images.ignored_rule)
        metrics |= {} if math.isnan(value) else {"voc_ap70": value}
    return metrics


def _judged(images: ObjectImages, results: Iterable[Mapping[str, Any]]) -> Iterator[JudgedImage]:
    """Truth and detections of each image, of whatever class."""
    found: dict[int, list[list[float]]] = {}
    for result in results:
        found.setdefault(result["image_id"], []).append([*result["bbox"], result["score"]])
    for index, image_id in enumerate(images.image_ids):
        boxes = np.array(found.get(image_id, []), np.float64).reshape(-1, 5)
        boxes[:, 2:4] += boxes[:, :2]
        truth, ignored = (images.boxes(index, crowds=crowds) for crowds in (False, True))
        yield JudgedImage(truth=truth, found=boxes[:, :4], scores=boxes[:, 4], ignored=ignored)


def _statistics(images: ObjectImages, results: list[dict[str, Any]], *, kind: Literal["bbox", "segm"]) -> list[float]:
    if not results:  # pycocotools refuses an empty list
        return [0.0] * len(_STATISTICS)
    evaluation = _evaluation(images, results, kind=kind)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def _evaluation(
    images: ObjectImages,
    results: list[dict[str, Any]],
    *,
    kind: Literal["bbox", "segm"],
    sizes: Sequence[str] = ("all", "small", "medium", "large"),
) -> Any:
    """COCOeval after `accumulate`, for objects of these sizes."""
    with contextlib.redirect_stdout(io.StringIO()):
        # Loading adds keys to the results, and boxes from the masks.
        evaluation: Any = COCOeval(images.coco, images.coco.loadRes([dict(result) for result in results]), kind)
        ranges = dict(zip(evaluation.params.areaRngLbl, evaluation.params.areaRng, strict=True))
        evaluation.params.areaRngLbl, evaluation.params.areaRng = list(sizes), [ranges[size] for size in sizes]
        evaluation.params.imgIds = list(images.image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def class_precision(
    images: ObjectImages, results: list[dict[str, Any]], *, kind: Literal["bbox", "segm"]
) -> dict[str, float]:
    """COCO's AP of boxes or masks, from 0 to 1, by the names of the classes that occur in the images."""
    evaluation = _evaluation(images, results, kind=kind, sizes=("all",))
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # of thresholds, recalls and classes
    means = [float(values[values > -1].mean()) if (values > -1).any() else None for values in precision.T]
    return {name: mean for name, mean in zip(images.class_names, means, strict=True) if mean is not None}


@torch.no_grad()
def predicted_classes(
    model: nn.Module, image: np.ndarray, *, device: torch.device, augment: AugmentConfig
) -> np.ndarray:
    """The class of each pixel of an image, uint8 [H, W, 3]: int64 [H, W]; the network sees it at the size of `augment`."""
    levels = as_levels(image)[None].to(device)
    sized = interpolate(levels, size=measured_size(image.shape[:2], augment), mode="bilinear", antialias=True)
    logits = interpolate(model(sized).float(), size=image.shape[:2], mode="bilinear", align_corners=False)
    return logits[0].argmax(0).cpu().numpy()


def classify(
    model: nn.Module, source: MaskedSource, *, device: torch.device, augment: AugmentConfig, indices: Iterable[int]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The classes of all pixels, judged at the original size of each image.

    Returns:
        the confusion matrix, int64 [K, K], and for each image with a pixel that counts its "index" and "name", and "miou" and
        "aacc" from 0 to 1 of it alone.
    """
    model.eval()
    total, images = np.zeros((source.num_classes, source.num_classes), np.int64), []
    for index in indices:
        record = source[index]
        found = predicted_classes(model, record.image, device=device, augment=augment)
        confusion = confusion_matrix(record.mask, found, num_classes=source.num_classes)
        total += confusion
        if confusion.any():
            scores = mask_scores(confusion)
            images.append({"index": index, "name": record.name, "miou": scores.miou, "aacc": scores.aacc})
    return total, images


def mask_metrics(confusion: np.ndarray) -> dict[str, float]:
    """mIoU, mAcc and aAcc from 0 to 1."""
    return mask_scores(confusion).metrics()


def with_progress(count: int, *, rank: int, ranks: int) -> Iterable[int]:
    """The indices that one of several processes measures, with a progress bar on a terminal."""
    return tqdm(range(rank, count, ranks), desc="measuring", unit="image", disable=None if rank == 0 else True)
