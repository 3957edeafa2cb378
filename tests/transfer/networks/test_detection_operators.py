"""The operators that tests of detectors run with, by hand; where torchvision has its own compiled ones, those."""

import pytest

torch = pytest.importorskip("torch")
from tests.transfer import operators

operators.install()
ops = pytest.importorskip("torchvision").ops


def test_nms_keeps_the_best_of_overlapping_boxes_best_first():
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 10.0],
            [0.0, 0.0, 10.0, 5.0],  # half of the first: overlap 0.5
            [0.0, 0.0, 10.0, 6.0],  # 0.6 of the first, and 5/6 of the second lies in it
            [20.0, 20.0, 30.0, 30.0],
        ]
    )
    scores = torch.tensor([0.8, 0.5, 0.7, 0.9])
    assert ops.nms(boxes, scores, 0.55).tolist() == [
        3,
        0,
        1,
    ]  # the third falls to the first and suppresses nothing itself
    assert ops.nms(boxes, scores, 0.5).tolist() == [3, 0, 1]  # an overlap of the threshold itself stays
    assert ops.nms(boxes, scores, 0.45).tolist() == [3, 0]
    assert ops.nms(boxes, scores, 0.61).tolist() == [3, 0, 2]


def test_nms_of_groups_compares_only_within_a_group():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(3, 1)
    kept = ops.batched_nms(boxes, torch.tensor([0.1, 0.3, 0.2]), torch.tensor([0, 1, 1]), 0.5)
    assert kept.tolist() == [1, 0]


@pytest.mark.parametrize("sampling_ratio", [1, 2, 0])
def test_roi_align_of_a_slope_is_its_value_at_the_centre_of_each_bin(sampling_ratio):
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    maps = torch.stack([torch.stack([x, y]), torch.stack([10 * x, -y])])
    rois = torch.tensor(
        [[0, 8.0, 4.0, 24.0, 12.0], [1, 4.0, 4.0, 12.0, 20.0]]
    )  # image, x1, y1, x2, y2 at twice the scale
    pooled = ops.roi_align(maps, rois, (2, 4), spatial_scale=0.5, sampling_ratio=sampling_ratio)
    across, down = torch.tensor([5.0, 7.0, 9.0, 11.0]), torch.tensor([3.0, 5.0])
    torch.testing.assert_close(pooled[0], torch.stack([across.expand(2, 4), down[:, None].expand(2, 4)]))
    across, down = torch.tensor([2.5, 3.5, 4.5, 5.5]), torch.tensor([4.0, 8.0])
    torch.testing.assert_close(pooled[1], torch.stack([10 * across.expand(2, 4), -down[:, None].expand(2, 4)]))


def test_roi_align_averages_its_points():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 1] = 1.0
    # Points at 0.5 and 1.5 along each axis: each has a quarter of the pixel at (1, 1).
    pooled = ops.roi_align(maps, torch.tensor([[0, 0.0, 0.0, 2.0, 2.0]]), 1, sampling_ratio=2)
    assert pooled.item() == pytest.approx(0.25)
    # `aligned` moves the box by half a pixel: points at 0 and 1, of which one is that pixel.
    pooled = ops.roi_align(maps, torch.tensor([[0, 0.0, 0.0, 2.0, 2.0]]), 1, sampling_ratio=2, aligned=True)
    assert pooled.item() == pytest.approx(0.25)
    # A box of no area still has a side of one pixel.
    pooled = ops.roi_align(maps, torch.tensor([[0, 0.5, 0.5, 0.5, 0.5]]), 1, sampling_ratio=1)
    assert pooled.item() == pytest.approx(1.0)


def test_without_a_ratio_each_box_takes_as_many_points_as_fit_whatever_others_take():
    maps, large = torch.rand(1, 2, 20, 30), torch.tensor([[0, 0.0, 0.0, 29.0, 12.0]])
    small = torch.tensor([[0, 3.0, 2.0, 5.5, 6.0]])
    both = ops.roi_align(maps, torch.cat([large, small]), 4, sampling_ratio=-1)
    torch.testing.assert_close(both[:1], ops.roi_align(maps, large, 4, sampling_ratio=-1))
    torch.testing.assert_close(both[1:], ops.roi_align(maps, small, 4, sampling_ratio=1))


def test_roi_align_has_the_gradient_of_its_points():
    maps = torch.zeros(1, 1, 4, 4, requires_grad=True)
    ops.roi_align(maps, torch.tensor([[0, 0.5, 0.5, 1.5, 1.5]]), 1, sampling_ratio=1).sum().backward()
    expected = torch.zeros(4, 4)
    expected[1, 1] = 1.0
    torch.testing.assert_close(maps.grad[0, 0], expected)
