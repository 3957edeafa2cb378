"""Batches by shape: every image once, at its place, in few lengths."""

import numpy as np
import pytest

from flsl_jax.features.batching import map_by_shape


@pytest.mark.parametrize("devices", [1, 2])
def test_every_image_has_its_result_at_its_place_and_lengths_are_few(devices):
    images = [np.full((1 + number % 3 % 2, 2), number) for number in range(23)]
    lengths = set()

    def function(batch):
        lengths.add(len(batch))
        return {"twice": 2 * batch}

    found = dict(map_by_shape(function, images, batch_size=lambda shape: 8, devices=devices))
    assert sorted(found) == list(range(23))
    for number, image in enumerate(images):
        np.testing.assert_array_equal(found[number]["twice"], 2 * image)
    assert lengths <= {8, 4, 2, 1}
    assert all(length % devices == 0 for length in lengths)


def test_of_tuples_each_place_has_its_own_batch():
    pairs = [(np.full((2, 3), number), np.full(1 + number % 2, 10 * number)) for number in range(5)]
    found = dict(map_by_shape(lambda a, b: (a.sum(axis=(1, 2)), b[:, 0]), pairs, batch_size=lambda shape: 2))
    assert [(int(a), int(b)) for _, (a, b) in sorted(found.items())] == [(6 * n, 10 * n) for n in range(5)]


def test_a_full_batch_is_computed_before_all_images_are_read():
    read = []

    def images():
        for number in range(100):
            read.append(number)
            yield np.zeros(3)

    next(map_by_shape(lambda batch: batch, images(), batch_size=lambda shape: 4))
    assert len(read) < 20


@pytest.mark.parametrize(
    ("full", "left", "devices", "computed"),
    [(34, 6, 1, 9), (64, 6, 1, 8), (34, 20, 1, 34), (5, 1, 1, 1), (24, 3, 8, 8), (24, 9, 8, 16)],
)
def test_what_is_left_is_filled_up_to_less_than_its_double(full, left, devices, computed):
    lengths = []
    images = [np.full((2, 2), number, np.float32) for number in range(left)]
    found = map_by_shape(
        lambda batch: (lengths.append(len(batch)), batch)[1], images, batch_size=lambda shape: full, devices=devices
    )
    assert [int(value[0, 0]) for _, value in found] == list(range(left))
    assert lengths == [computed]
