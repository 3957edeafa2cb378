"""Training samples: functions of the seed and their number, with image, boxes and masks moved alike."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.truth.mask_classes import IGNORED
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.transfer.config import AugmentConfig, DetectionSourceConfig
from flsl_jax.transfer.data.objects import open_objects
from flsl_jax.transfer.data.samples import TrainSamples, batches

FILL = (0.5, 0.25, 0.0)


def objects(augment, *, seed=0):
    source = DetectionSourceConfig(name="scenes", count=10, scene_size=48)
    opened = open_objects(source, path="config.data.train", masks=True)
    return TrainSamples(opened, batch_size=4, seed=seed, augment=augment, fill=FILL, masks=True)


def pixels(augment):
    source = open_masked(MaskedSourceConfig(name="scenes", count=10, scene_size=48))
    return TrainSamples(source, batch_size=4, seed=0, augment=augment, fill=FILL)


def test_boxes_are_those_of_their_masks_after_every_change():
    samples = objects(AugmentConfig(sizes=(64,), jitter=(0.5, 1.5)))
    seen = 0
    for number in range(12):
        image, target = samples[number]
        assert image.shape == (3, 64, 64)
        assert image.min() >= 0
        assert image.max() <= 1
        for box, mask in zip(target["boxes"].numpy(), target["masks"].numpy(), strict=True):
            rows, columns = np.nonzero(mask)
            if not len(rows):  # the part inside the crop has no pixel of the object
                continue
            edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box[:2] <= edges[:2] + 2).all()
            assert (box[2:] >= edges[2:] - 2).all()
            if box.min() > 0 and box.max() < 64:  # not cut
                np.testing.assert_allclose(box, edges, atol=2)
                seen += 1
        assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"])
    assert seen > 5


def test_a_cut_is_a_rectangle_of_a_larger_image_with_the_boxes_of_what_it_shows():
    samples = objects(AugmentConfig(sizes=(64,), max_size=2000, cut=1.0, flip=0.0))
    shapes = set()
    for number in range(6):
        image, target = samples[number]
        shapes.add(tuple(image.shape[1:]))
        assert all(384 <= side <= 600 for side in image.shape[1:])
        assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
        scale = max(image.shape[1:]) / 48
        for box, mask in zip(target["boxes"].numpy(), target["masks"].numpy(), strict=True):
            rows, columns = np.nonzero(mask)
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(box, edges, atol=2 * scale)
    assert len(shapes) > 3
    never = objects(AugmentConfig(sizes=(64,), cut=0.0))
    assert {tuple(never[number][0].shape[1:]) for number in range(4)} == {(48, 48)}


def test_a_small_image_lies_in_the_upper_left_corner_of_the_mean():
    image, target = objects(AugmentConfig(sizes=(96,), jitter=(0.5, 0.5), flip=0.0))[3]
    assert image.shape == (3, 96, 96)
    expected = torch.tensor([round(255 * level) / 255 for level in FILL])
    assert torch.equal(image[:, 50:, 50:], expected[:, None, None].expand(3, 46, 46))
    assert not torch.equal(image[:, :40, :40], expected[:, None, None].expand(3, 40, 40))
    assert target["boxes"].max() <= 48
    image, mask = pixels(AugmentConfig(sizes=(24,), crop=64, ratio=(1.0, 1.0)))[3]
    assert mask.shape == (64, 64)
    assert (mask[24:] == IGNORED).all()
    assert (mask[:24, :24] != IGNORED).all()


def test_a_sample_is_a_function_of_the_seed_and_its_number():
    augment = AugmentConfig(sizes=(64,), jitter=(0.5, 1.5))
    first, again, other = objects(augment)[5], objects(augment)[5], objects(augment, seed=1)[5]
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_processes_share_a_batch_and_a_run_may_start_anywhere():
    samples = pixels(AugmentConfig(sizes=(48,), crop=32))
    common = {"batch_size": 4, "workers": 0}
    whole = list(batches(samples, start=0, end=3, rank=0, ranks=1, **common))
    shares = [list(batches(samples, start=1, end=3, rank=rank, ranks=2, **common)) for rank in (0, 1)]
    for step, batch in enumerate(whole[1:]):
        both = [sample for share in shares for sample in share[step]]
        assert len(both) == len(batch) == 4
        for (image, mask), (expected, truth) in zip(both, batch, strict=True):
            assert torch.equal(image, expected)
            assert torch.equal(mask, truth)
