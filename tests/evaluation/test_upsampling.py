"""Upsampled class maps against PyTorch's and JAX's interpolation."""

import jax
import numpy as np
import pytest

from flsl_jax.evaluation import upsampling
from flsl_jax.evaluation.upsampling import upsampled_classes

SHAPES = [((4, 6), (32, 48)), ((3, 5), (37, 41)), ((1, 1), (5, 7)), ((2, 1), (9, 3))]


@pytest.mark.parametrize(("grid", "size"), SHAPES)
@pytest.mark.parametrize("positive", [True, False])
def test_bilinear_classes_are_those_of_jax_and_pytorch(grid, size, positive) -> None:
    scores = np.random.default_rng(0).standard_normal((*grid, 7)).astype(np.float32)
    scores = np.where(np.arange(7) % 2 == 0, np.abs(scores), 0) if positive else scores - 5
    found = upsampled_classes(scores.astype(np.float32), height=size[0], width=size[1], mode="bilinear")
    resized = np.array(jax.image.resize(scores, (*size, 7), "bilinear"))
    np.testing.assert_array_equal(found, resized.argmax(axis=-1))
    torch = pytest.importorskip("torch")
    planes = torch.from_numpy(scores.astype(np.float32)).permute(2, 0, 1)[None]
    interpolated = torch.nn.functional.interpolate(planes, size=size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, interpolated.argmax(axis=-1))


@pytest.mark.parametrize(("grid", "size"), SHAPES)
def test_nearest_classes_are_those_of_the_patch_a_pixel_lies_in(grid, size) -> None:
    scores = np.random.default_rng(0).standard_normal((*grid, 7)).astype(np.float32)
    found = upsampled_classes(scores, height=size[0], width=size[1], mode="nearest")
    expected = np.array(jax.image.resize(scores.argmax(axis=-1), size, "nearest"))
    np.testing.assert_array_equal(found, expected)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((4, 5, 3), np.float32)
    whole = upsampled_classes(scores, height=33, width=40, mode="bilinear")
    monkeypatch.setattr(upsampling, "_BLOCK", 7 * 40 * 3)
    np.testing.assert_array_equal(upsampled_classes(scores, height=33, width=40, mode="bilinear"), whole)


def test_without_any_score_the_lowest_class_is_taken() -> None:
    assert not upsampled_classes(np.zeros((2, 2, 3), np.float32), height=4, width=4, mode="bilinear").any()
