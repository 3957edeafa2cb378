"""Kinds of detections, by boxes whose overlaps were worked out by hand."""

import pytest

pytest.importorskip("pycocotools")

from flsl_jax.transfer.config import DetectionSourceConfig
from flsl_jax.transfer.data.objects import open_objects
from flsl_jax.transfer.judging.mistakes import Findings, judge, judge_all, missed

CAT, DOG = 1, 2


def thing(box, category=CAT, *, crowd=0):
    return {"bbox": box, "category_id": category, "iscrowd": crowd}


def found(box, score, category=CAT, *, image=0):
    return {"image_id": image, "bbox": box, "category_id": category, "score": score}


# A cat of 100 × 100, a dog of 100 × 100 right of it, and a crowd of cats below both.
TRUTH = [thing([0, 0, 100, 100]), thing([200, 0, 100, 100], DOG), thing([0, 200, 300, 100], crowd=1)]


@pytest.mark.parametrize(
    ("box", "category", "kind", "about", "overlap"),
    [
        ([0, 0, 100, 80], CAT, "right", 0, 0.8),
        ([0, 0, 100, 50], CAT, "right", 0, 0.5),
        ([0, 0, 100, 49], CAT, "place", 0, 0.49),
        ([0, 0, 100, 10], CAT, "place", 0, 0.1),
        ([0, 0, 100, 9], CAT, "background", None, 0.0),
        ([0, 0, 100, 80], DOG, "class", 0, 0.8),
        ([0, 0, 100, 40], DOG, "place", 0, 0.4),
        ([400, 0, 10, 10], CAT, "background", None, 0.0),
        ([10, 210, 20, 20], CAT, "ignored", None, 0.0),
        ([10, 190, 20, 20], CAT, "ignored", None, 0.0),
        ([10, 189, 20, 20], CAT, "background", None, 0.0),
        ([10, 210, 20, 20], DOG, "background", None, 0.0),
    ],
)
def test_the_kind_of_one_detection(box, category, kind, about, overlap):
    (judged,) = judge([found(box, 0.9, category)], TRUTH)
    assert judged.kind == kind
    assert judged.truth is (None if about is None else TRUTH[about])
    assert judged.overlap == pytest.approx(overlap)


def test_the_surest_takes_the_object_and_the_next_is_a_duplicate_however_well_it_fits():
    judged = judge([found([0, 0, 100, 100], 0.6), found([0, 0, 100, 60], 0.8)], TRUTH)
    assert [(item.detection["score"], item.kind) for item in judged] == [(0.8, "right"), (0.6, "duplicate")]


def test_a_second_detection_takes_a_second_object_that_it_overlaps_less():
    pair = [thing([0, 0, 100, 100]), thing([0, 20, 100, 100])]
    judged = judge([found([0, 0, 100, 100], 0.9), found([0, 5, 100, 100], 0.8)], pair)
    assert [item.kind for item in judged] == ["right", "right"]
    assert judged[1].truth is pair[1]


def test_of_two_near_objects_the_one_of_its_class_says_what_is_wrong_with_the_place():
    pair = [thing([0, 0, 100, 45], DOG), thing([0, 55, 100, 30])]
    (judged,) = judge([found([0, 0, 100, 100], 0.9)], pair)
    assert (judged.kind, judged.truth, judged.overlap) == ("place", pair[1], pytest.approx(0.3))


def test_missed_are_objects_that_no_sure_detection_of_their_class_found_and_no_crowds():
    judged = judge([found([0, 0, 100, 90], 0.4), found([200, 0, 100, 70], 0.9)], TRUTH)
    sure = missed(judged, TRUTH, score=0.5)
    assert [item.truth for item in sure] == TRUTH[:2]
    assert [item.nearest.kind for item in sure] == ["right", "class"]
    assert [item.truth for item in missed(judged, TRUTH, score=0.3)] == [TRUTH[1]]
    (cat, dog) = missed([], TRUTH, score=0.5)
    assert (cat.nearest, dog.nearest) == (None, None)


def test_the_surest_mistakes_and_the_largest_missed_objects_are_one_of_an_image():
    judged = {
        image: judge([found([400, 0, 10, 10], score), found([0, 0, 5, 5], score - 0.1)], TRUTH)
        for image, score in ((1, 0.7), (2, 0.9), (3, 0.3))
    }
    lost = {image: missed(items, TRUTH[image - 1 : 2], score=0.5) for image, items in judged.items()}
    findings = Findings(judged, lost, 0.5)
    assert [item.detection["score"] for item in findings.surest("background", most=2)] == [0.9, 0.7]
    assert findings.surest("class", most=2) == []
    assert sorted(item.detection["score"] for item in findings.sure()) == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert len(findings.largest_missed(most=9)) == 2


def test_the_truth_of_scenes_as_detections_has_no_mistakes():
    images = open_objects(DetectionSourceConfig(name="scenes", count=5, scene_size=48), path="data", masks=False)
    truth = images.coco.dataset["annotations"]
    findings = judge_all(images, [item | {"score": 1.0} for item in truth], score=0.5)
    assert [item.kind for item in findings.sure()] == ["right"] * len(truth)
    assert not any(findings.missed.values())
