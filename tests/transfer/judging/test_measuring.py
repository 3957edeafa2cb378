"""AP and mIoU: results that are the truth, hand-worked ones, and those that pycocotools gives by hand."""

import contextlib
import io
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.transfer.config import AugmentConfig, DetectionSourceConfig
from flsl_jax.transfer.data.objects import open_objects
from flsl_jax.transfer.judging.measuring import average_precision, class_precision, classify, detect, mask_metrics

SCENES = DetectionSourceConfig(name="scenes", count=8, scene_size=48, split="val")


class Oracle(torch.nn.Module):
    """Finds the truth of the images in their order, with some scores and some boxes wrong."""

    def __init__(self, images, *, shift=0.0):
        super().__init__()
        self._images, self._next, self._shift = images, 0, shift

    def forward(self, batch):
        objects = self._images.objects(self._next, masks=True)
        self._next += 1
        rng = np.random.default_rng(self._next)
        moved = objects.xyxy + self._shift * rng.standard_normal(objects.xyxy.shape)
        return [
            {
                "boxes": torch.tensor(moved, dtype=torch.float32),
                "labels": torch.tensor(objects.labels),
                "scores": torch.tensor(rng.uniform(0.3, 1.0, len(objects.labels))),
                "masks": torch.tensor(objects.masks[:, None], dtype=torch.float32),
            }
        ]


def results_of(shift):
    images = open_objects(SCENES, path="config.data.val", masks=True)
    return images, detect(Oracle(images, shift=shift), images, device=torch.device("cpu"), indices=range(len(images)))


def test_the_truth_has_an_ap_of_1_and_nothing_has_0():
    images, results = results_of(0.0)
    metrics = average_precision(images, results)
    assert metrics["box_ap"] == metrics["mask_ap"] == metrics["box_ap75"] == 1.0
    nothing = average_precision(images, [])
    assert nothing["box_ap"] == 0.0
    assert "mask_ap" not in nothing
    nothing = average_precision(images, [], masks=True)
    assert nothing["mask_ap"] == nothing["mask_ap50"] == nothing["box_ap"] == 0.0
    boxes = [{key: value for key, value in result.items() if key != "segmentation"} for result in results]
    assert "mask_ap" not in average_precision(images, boxes)


def test_saved_results_have_the_ap_that_pycocotools_gives_by_hand(tmp_path):
    images, results = results_of(4.0)
    metrics = average_precision(images, results)
    (tmp_path / "truth.json").write_text(json.dumps(_plain(images.coco.dataset)))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.05 < metrics["box_ap"] < 0.95
    assert metrics["box_ap"] == evaluation.stats[0]
    assert metrics["box_ap50"] == evaluation.stats[1]
    assert metrics["box_ar10"] == evaluation.stats[7]


def test_miou_of_a_model_that_says_one_class_is_that_class_alone():
    source = open_masked(MaskedSourceConfig(name="scenes", count=4, scene_size=40, split="val"))

    class Background(torch.nn.Module):
        def forward(self, images):
            logits = torch.zeros(len(images), source.num_classes, *images.shape[2:])
            logits[:, 0] = 1
            return logits

    confusion, images = classify(
        Background(),
        source,
        device=torch.device("cpu"),
        augment=AugmentConfig(sizes=(20,), max_size=40),
        indices=range(4),
    )
    masks = np.stack([source[index].mask for index in range(4)])
    share = (masks == 0).mean()
    assert confusion.sum() == masks.size
    metrics = mask_metrics(confusion)
    present = len(np.unique(masks))
    assert metrics["aacc"] == pytest.approx(share)
    assert metrics["miou"] == pytest.approx(share / present)
    assert [(image["index"], image["name"]) for image in images] == [(n, source[n].name) for n in range(4)]
    shares = [(mask == 0).mean() for mask in masks]
    assert [image["aacc"] for image in images] == pytest.approx(shares)
    classes = [len(np.unique(mask)) for mask in masks]
    assert [image["miou"] for image in images] == pytest.approx([a / b for a, b in zip(shares, classes)])


def test_the_mean_ap_of_the_classes_that_occur_is_the_ap():
    images, results = results_of(4.0)
    metrics = average_precision(images, results)
    for name, kind in (("box_ap", "bbox"), ("mask_ap", "segm")):
        classes = class_precision(images, results, kind=kind)
        present = {item["category_id"] for item in images.coco.dataset["annotations"]}
        assert set(classes) == {images.class_names[number - 1] for number in present}
        assert np.mean(list(classes.values())) == pytest.approx(metrics[name])


def _plain(values):
    """Counts of RLE masks as text."""
    if isinstance(values, bytes):
        return values.decode()
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return [_plain(value) for value in values] if isinstance(values, list) else values
