"""The pictures of a detector's report, of scenes whose detections are the truth with mistakes put in."""

import json
import re

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")

from flsl_jax.transfer.config import DetectionSourceConfig
from flsl_jax.transfer.data.objects import open_objects
from flsl_jax.transfer.pictures.drawing import Mark
from flsl_jax.transfer.pictures.object_pictures import ObjectPictures, _around, balanced_score

SCENES = DetectionSourceConfig(name="scenes", count=12, scene_size=48, split="val")


@pytest.fixture(scope="module")
def images():
    return open_objects(SCENES, path="data", masks=False)


def truth_with(images, **changes):
    """The truth as detections with a score of 0.8; `changes`: to some of them, by their numbers."""
    found = [
        {name: item[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.8}
        for item in images.coco.dataset["annotations"]
    ]
    for name, change in changes.items():
        found[int(name[1:])] |= change
    return found


def drawn(images, detections, folder):
    return ObjectPictures(images, detections, folder=folder)


def test_examples_are_spread_over_the_images_and_each_is_there_with_truth_and_findings(images, tmp_path):
    text = drawn(images, truth_with(images), tmp_path).examples(most=4)
    names = ["scene 0", "scene 4", "scene 7", "scene 11"]
    assert re.findall(r'alt="(scene \d+)"', text) == names
    assert re.findall(r"(scene \d+), truth: ", text) == re.findall(r"(scene \d+), found: ", text) == names
    count = len(images.coco.imgToAnns[0])
    assert f"scene 0: {count} of {count} detections are right." in text
    assert len(list(tmp_path.glob("*.jpg"))) == 12


def test_each_kind_of_mistake_is_shown_by_the_surest_and_counted(images, tmp_path):
    annotations = images.coco.dataset["annotations"]
    other = 1 + annotations[0]["category_id"] % len(images.class_names)
    detections = truth_with(images, _0={"category_id": other, "score": 0.99})
    detections.append(detections[5] | {"score": 0.81})
    pictures = drawn(images, detections, tmp_path)
    text = pictures.mistakes(most=3)
    said, true = images.class_names[other - 1], images.class_names[annotations[0]["category_id"] - 1]
    assert f"“{said}” with a score of 0.99; the truth is “{true}”, IoU 1.00." in text
    assert [
        name for name in ("Wrong class", "Wrong place", "Found twice", "Nothing there") if f"<h3>{name}" in text
    ] == [
        "Wrong class",
        "Found twice",
    ]
    rows = dict(re.findall(r"<tr><th>([\w ]+)</th><td>[^<]*</td><td>(\d+)</td>", text))
    right = len(annotations) - 1
    assert rows == {
        "Right": f"{right}",
        "Wrong class": "1",
        "Wrong place": "0",
        "Found twice": "1",
        "Nothing there": "0",
    }
    assert f"of {right + 1} objects {right} are found" in text
    size = "{2:.0f} × {3:.0f} px".format(*annotations[0]["bbox"])
    assert f"“{true}” of {size}; the nearest detection is {said} 0.99." in text


def test_nothing_found_is_all_missed_and_no_page_fails(images, tmp_path):
    text = drawn(images, [], tmp_path).mistakes(most=2)
    assert text.count("no detection overlaps it.") == 2
    examples = drawn(images, [], tmp_path).examples(most=1)
    assert "Nothing is found in any of them." in examples
    assert "scene 0: nothing is found; " in examples


def test_the_score_is_that_of_as_many_detections_as_there_are_objects(images):
    objects = len(images.coco.dataset["annotations"])
    detections = [{"score": 0.999 - number / 1000} for number in range(2 * objects)]
    score = balanced_score(images, detections)
    assert objects <= sum(item["score"] >= score for item in detections) < objects + 10
    assert balanced_score(images, detections[:3]) == pytest.approx(0.99)
    assert balanced_score(images, []) == 0.0


def test_an_image_that_is_gone_is_left_out_with_a_warning(tmp_path, caplog):
    for number in (1, 2):
        Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(tmp_path / f"{number}.png")
    truth = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 30, "height": 20} for n in (1, 2)],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": n - 1}
            for n in (1, 2)
        ],
    }

    (tmp_path / "truth.json").write_text(json.dumps(truth))
    config = DetectionSourceConfig(name="coco", root=str(tmp_path), annotations=str(tmp_path / "truth.json"))
    images = open_objects(config, path="data", masks=False)
    (tmp_path / "1.png").unlink()
    (tmp_path / "out").mkdir()
    text = drawn(images, [], tmp_path / "out").examples(most=8)
    assert re.findall(r'alt="(\d.png)"', text) == ["2.png"]
    assert "1.png cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("boxes", "cut"),
    [
        ([[90, 40, 20, 20]], (80, 30, 120, 70)),  # 0.4 of the short side
        ([[100, 30, 50, 40]], (85, 10, 165, 90)),  # 1.6 of the longest side
        ([[0, 0, 10, 10]], (0, 0, 40, 40)),
        ([[0, 0, 200, 100]], (0, 0, 200, 100)),
        ([[-5, 10, 30, 30], [180, 60, 30, 60]], (0, 0, 200, 100)),
    ],
)
def test_a_mistake_is_shown_in_a_square_around_it_within_the_image(boxes, cut):
    assert _around([Mark(box=box, words="", color="#000000") for box in boxes], (100, 200)) == cut
