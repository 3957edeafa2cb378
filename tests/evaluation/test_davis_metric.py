"""J and F against the official numbers, against brute force by the definitions, and by hand."""

import itertools
import math

import numpy as np
import pytest

from flsl_jax.config import VideoConfig
from flsl_jax.evaluation.davis_metric import boundary, boundary_accuracy, region_similarity, score_objects, statistics
from flsl_jax.evaluation.encoder import NoEncoder
from flsl_jax.evaluation.protocols.video import evaluate
from tests.davis_layout import write_layout
from tests.shared_data import shared_data


def _boundary_reference(mask):
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y, x in itertools.product(range(height), range(width)):
        others = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (1, 1)) if y + dy < height and x + dx < width]
        found[y, x] = any(mask[y, x] != mask[other] for other in others)
    return found


def _f_reference(truth, predicted):
    """Dilation with a disk pixel by pixel, then shares of the pixels that it covers."""
    height, width = truth.shape
    radius = math.ceil(0.008 * math.sqrt(height**2 + width**2))
    reach = range(-radius, radius + 1)
    disk = [(dy, dx) for dy, dx in itertools.product(reach, reach) if dy**2 + dx**2 <= radius**2]
    lines = [_boundary_reference(mask) for mask in (truth, predicted)]
    wide = [np.zeros_like(line) for line in lines]
    for line, dilated in zip(lines, wide):
        for (y, x), (dy, dx) in itertools.product(np.argwhere(line), disk):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                dilated[y + dy, x + dx] = True
    counts = [int(line.sum()) for line in lines]
    recall = (lines[0] & wide[1]).sum() / counts[0] if counts[0] else 1.0
    precision = (lines[1] & wide[0]).sum() / counts[1] if counts[1] else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _judge_files(*, root, predictions):
    settings = VideoConfig(root=str(root), predictions=str(predictions))
    return evaluate(NoEncoder(), settings, batch_size=1)


def test_generated_videos_score_as_the_official_evaluation_has_it(tmp_path):
    write_layout(tmp_path / "davis", tmp_path / "masks")
    found = _judge_files(root=tmp_path / "davis", predictions=tmp_path / "masks")
    # From davisvideochallenge/davis2017-evaluation at ac7c43f, on these very files.
    official = {
        "j_mean": 0.42254580676356973,
        "j_recall": 0.5010204081632653,
        "j_decay": -0.05346736464088999,
        "f_mean": 0.3455602445586204,
        "f_recall": 0.29098639455782316,
        "f_decay": -0.11368546171735051,
    }
    assert found.metrics == pytest.approx(
        {"jf_mean": (official["j_mean"] + official["f_mean"]) / 2} | official, abs=1e-6
    )
    assert [row["object"] for row in found.rows] == list("12312341121212")


def test_generated_videos_score_as_brute_force(tmp_path):
    for truth, predicted in write_layout(tmp_path / "davis", tmp_path / "masks").values():
        truth = np.where(truth == 255, 0, truth)
        objects = int(truth[0].max())
        found = score_objects(truth[1:-1], predicted[1:-1], num_objects=objects)
        for number, scores in enumerate(found, start=1):
            pairs = [(a == number, b == number) for a, b in zip(truth[1:-1], predicted[1:-1])]
            j = [(a & b).sum() / (a | b).sum() if (a | b).any() else 1.0 for a, b in pairs]
            assert scores.region.mean == pytest.approx(np.mean(j), abs=1e-9)
            assert scores.boundary.mean == pytest.approx(np.mean([_f_reference(*pair) for pair in pairs]), abs=1e-9)


def test_repeating_the_first_mask_of_the_real_videos_scores_as_officially(tmp_path):
    root = shared_data("davis-mini")
    for folder in (root / "Annotations" / "480p").iterdir():
        (tmp_path / folder.name).mkdir()
        for path in folder.iterdir():
            (tmp_path / folder.name / path.name).symlink_to(folder / "00000.png")
    found = _judge_files(root=root, predictions=tmp_path).metrics
    assert [round(found[key], 4) for key in ("jf_mean", "j_mean", "f_mean")] == [0.3682, 0.3619, 0.3745]


def test_boundaries_by_hand():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:3] = True
    expected = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(boundary(mask), expected)
    np.testing.assert_array_equal(boundary(np.ones((3, 3), bool)), np.zeros((3, 3), bool))
    mask = np.zeros((3, 3), bool)
    mask[:, 2] = True
    np.testing.assert_array_equal(boundary(mask), [[False, True, False]] * 3)


def test_empty_masks_by_hand():
    nothing, square = np.zeros((50, 60), bool), np.zeros((50, 60), bool)
    square[10:20, 10:20] = True
    assert (region_similarity(nothing, nothing), boundary_accuracy(nothing, nothing)) == (1, 1)
    for pair in ((nothing, square), (square, nothing)):
        assert (region_similarity(*pair), boundary_accuracy(*pair)) == (0, 0)
    # A mask of the whole image has no boundary.
    assert (region_similarity(~nothing, ~nothing), boundary_accuracy(~nothing, nothing)) == (1, 1)


def test_the_tolerance_is_a_closed_disk_by_hand():
    # 300 × 400: diagonal 500, tolerance 4 pixels.
    left, right = np.zeros((2, 300, 400), bool)
    left[:, :100] = True
    for shift, expected in ((0, 1), (4, 1), (5, 0)):
        right[:] = False
        right[:, : 100 + shift] = True
        assert boundary_accuracy(left, right) == expected


def test_statistics_by_hand():
    # Frames 1 to 6: bins end at 1, 2.25, 3.5, 4.75, 6, rounded 1, 2, 4, 5, 6: the first is 1–2, the last 5–6.
    found = statistics(np.array([0.9, 0.7, 0.5, 0.6, 0.1, 0.2]))
    assert found.mean == pytest.approx(0.5)
    assert found.recall == pytest.approx(3 / 6)  # 0.5 is not above 0.5
    assert found.decay == pytest.approx(0.8 - 0.15)
    assert statistics(np.array([0.3])).decay == 0


def test_a_video_without_judged_frames_is_a_programming_error():
    nothing = np.zeros((0, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="at least one frame"):
        score_objects(nothing, nothing, num_objects=1)
