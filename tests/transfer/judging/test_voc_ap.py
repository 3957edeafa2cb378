"""UAVDT's AP: cases worked by hand, and random ones against the rule written out in loops."""

import math

import numpy as np
import pytest

from flsl_jax.transfer.judging.voc_ap import JudgedImage, voc_ap

CAR = (0, 0, 10, 10)
FAR = (100, 100, 120, 110)


def image(truth, found, ignored=()):
    """`found`: pairs of a score and a box."""
    boxes = [np.array(values, np.float64).reshape(-1, 4) for values in (truth, [box for _, box in found], ignored)]
    return JudgedImage(
        truth=boxes[0], found=boxes[1], scores=np.array([score for score, _ in found], np.float64), ignored=boxes[2]
    )


def ap(*images, rule="inside", iou=0.7):
    return voc_ap(images, iou=iou, ignored_rule=rule)


def test_the_truth_has_1_nothing_has_0_and_no_truth_has_no_ap():
    assert ap(image([CAR, FAR], [(0.2, FAR), (0.1, CAR)]), image([], [])) == 1.0
    assert ap(image([CAR], [])) == 0.0
    assert math.isnan(ap(image([], [(0.9, CAR)])))
    assert math.isnan(ap())


def test_a_second_detection_of_a_vehicle_is_wrong_and_all_points_of_the_curve_count():
    # Right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1. Eleven points would give (6 · 1 + 5 · 2/3) / 11 = 0.848.
    result = ap(image([CAR, FAR], [(0.9, CAR), (0.8, CAR), (0.7, FAR)]))
    assert result == pytest.approx((1 + 2 / 3) / 2)
    # Wrong, right, right: precision 0, 1/2, 2/3 is raised to 2/3 everywhere.
    result = ap(image([CAR, FAR], [(0.9, (50, 50, 60, 60)), (0.8, CAR), (0.7, FAR)]))
    assert result == pytest.approx(2 / 3)


def test_an_iou_of_exactly_the_threshold_is_right_and_widths_have_no_pixel_added():
    assert ap(image([CAR], [(0.9, (0, 0, 7, 10))])) == 1.0
    assert ap(image([CAR], [(0.9, (0, 0, 6.99, 10))])) == 0.0
    assert ap(image([CAR], [(0.9, (0, 0, 5, 10))]), iou=0.5) == 1.0


def test_a_detection_takes_the_best_true_box_that_is_left():
    smaller = (0, 0, 10, 8)
    # The second detection overlaps CAR more (0.95), but CAR is taken; its 8 / 9.5 with the other one is enough.
    assert ap(image([CAR, smaller], [(0.9, CAR), (0.8, (0, 0, 10, 9.5))])) == 1.0
    # The surest takes the box that it overlaps most, in whatever order the truth is given.
    assert ap(image([smaller, CAR], [(0.9, CAR), (0.8, smaller)])) == 1.0
    # Equal overlaps: the last true box is taken, which leaves the first, (0, 0, 10, 8), to the second detection.
    upper = (0, 2, 10, 10)
    assert ap(image([smaller, upper], [(0.9, CAR), (0.8, smaller)])) == 1.0
    assert ap(image([upper, smaller], [(0.9, CAR), (0.8, smaller)])) == 0.5


def test_detections_in_ignored_areas_are_left_out_by_the_rule():
    area = (90, 90, 130, 130)
    inside, touching, half = (91, 91, 101, 101), (90, 91, 101, 101), (80, 100, 100, 110)
    cases = {inside: ("inside", "center", "half"), touching: ("center", "half"), half: ("center", "half")}
    for box, left_out_by in cases.items():
        for rule in ("inside", "center", "half"):
            result = ap(image([CAR], [(0.9, box), (0.5, CAR)], [area]), rule=rule)
            assert result == (1.0 if rule in left_out_by else 0.5), (box, rule)
    just_less = (79, 100, 99, 110)  # 9 of 20 columns in the area, the center outside
    for rule in ("inside", "center", "half"):
        assert ap(image([CAR], [(0.9, just_less), (0.5, CAR)], [area]), rule=rule) == 0.5
    # A box of no area and no part of any area is in none.
    assert ap(image([CAR], [(0.9, (5, 5, 5, 5)), (0.5, CAR)], [area]), rule="half") == 0.5


def test_an_ignored_area_counts_in_its_own_image_and_hides_right_detections_too():
    area = (90, 90, 130, 130)
    elsewhere = image([], [], [area])
    assert ap(elsewhere, image([CAR], [(0.9, (95, 95, 105, 105)), (0.5, CAR)])) == 0.5
    assert ap(image([CAR, FAR], [(0.9, CAR), (0.8, FAR)], [area])) == 0.5


def test_equal_scores_stay_in_the_order_of_images_and_detections():
    right, wrong = image([CAR], [(0.5, CAR)]), image([], [(0.5, FAR)])
    assert ap(right, wrong) == 1.0
    assert ap(wrong, right) == 0.5
    assert ap(image([CAR], [(0.5, FAR), (0.5, CAR)])) == 0.5


def naive(images, *, iou, rule):
    """The same in loops: matching as UAVDT's toolkit walks through boxes, the area as VOC adds up rectangles."""
    judged, total = [], 0
    for place, judged_image in enumerate(images):
        rows = list(zip(judged_image.scores.tolist(), judged_image.found.tolist(), strict=True))
        rows = [row for row in rows if not any(in_area(row[1], area, rule) for area in judged_image.ignored.tolist())]
        rows = [row for _, row in sorted(enumerate(rows), key=lambda pair: (-pair[1][0], pair[0]))]
        truth, taken = judged_image.truth.tolist(), set()
        total += len(truth)
        for score, box in rows:
            best, chosen = iou, None
            for number, true in enumerate(truth):
                if number not in taken and overlap(box, true) >= best:
                    best, chosen = overlap(box, true), number
            taken.add(chosen)
            judged.append((score, place, chosen is not None))
    judged.sort(key=lambda row: (-row[0], row[1]))
    recall, precision, hits = [0.0], [0.0], 0
    for count, (_, _, hit) in enumerate(judged, start=1):
        hits += hit
        recall.append(hits / total)
        precision.append(hits / count)
    recall, precision = [*recall, 1.0], [*precision, 0.0]
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return sum((recall[index] - recall[index - 1]) * precision[index] for index in range(1, len(recall)))


def shared(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)


def area_of(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(first, second):
    return shared(first, second) / (area_of(first) + area_of(second) - shared(first, second))


def in_area(box, area, rule):
    if rule == "inside":
        return box[0] > area[0] and box[1] > area[1] and box[2] < area[2] and box[3] < area[3]
    if rule == "half":
        return shared(box, area) * 2 >= area_of(box)
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return area[0] <= x <= area[2] and area[1] <= y <= area[3]


@pytest.mark.parametrize("rule", ["inside", "center", "half"])
def test_random_cases_with_many_ties_equal_the_rule_in_loops(rule):
    rng = np.random.default_rng(3)

    def boxes(count):
        corners = rng.integers(0, 6, (count, 2))
        return np.concatenate([corners, corners + rng.integers(2, 7, (count, 2))], axis=1).astype(np.float64)

    values = []
    for _ in range(200):
        images = []
        for _ in range(rng.integers(1, 4)):
            truth = boxes(rng.integers(1, 5))
            moved = truth[rng.integers(0, len(truth), rng.integers(0, 7))]
            moved = moved + rng.integers(0, 2, moved.shape) * rng.integers(0, 2, (len(moved), 1)) * [-1, -1, 1, 1]
            found = np.concatenate([moved, boxes(rng.integers(0, 3))])
            scores = rng.integers(1, 5, len(found)) / 4
            images.append(JudgedImage(truth=truth, found=found, scores=scores, ignored=1.5 * boxes(rng.integers(0, 2))))
        iou = float(rng.choice([0.25, 0.5, 0.7]))
        values.append(voc_ap(images, iou=iou, ignored_rule=rule))
        assert values[-1] == pytest.approx(naive(images, iou=iou, rule=rule), abs=1e-12)
    assert len(set(values)) > 80
