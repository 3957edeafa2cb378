"""Image and mask through one geometry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.data.truth.mask_fit import MaskFit, class_shares


def _halves(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose quarters have levels of their own, and the mask that says which."""
    mask = (np.arange(height)[:, None] * 2 // height * 2 + np.arange(width) * 2 // width).astype(np.int32)
    return np.broadcast_to((mask * 60).astype(np.uint8)[..., None], (height, width, 3)).copy(), mask


@pytest.mark.parametrize("how", ["square", "crop", "ratio"])
@pytest.mark.parametrize("shape", [(40, 40), (60, 36), (33, 90), (12, 20)])
def test_image_and_mask_stay_together(how: str, shape: tuple[int, int]) -> None:
    image, mask = _halves(*shape)
    fit = MaskFit(how=how, size=32, patch_size=8)
    moved, labels = fit.image(image), fit.mask(mask)
    assert moved.shape[:2] == labels.shape
    assert all(side % 8 == 0 for side in labels.shape)
    assert labels.dtype == np.int32
    # Every pixel is nearest to its own label's level, but for those beside an edge, which are blends.
    inner = labels[1:-1, 1:-1]
    same = np.ones_like(inner, bool)
    for row, column in np.ndindex(3, 3):
        same &= labels[row : row + inner.shape[0], column : column + inner.shape[1]] == inner
    assert same.mean() > 0.8
    np.testing.assert_array_equal(np.round(moved[1:-1, 1:-1, 0] / 60)[same], inner[same])


def test_shapes_of_each_fit() -> None:
    shapes = {
        how: MaskFit(how=how, size=32, patch_size=8).mask(np.zeros((30, 70), np.int32)).shape
        for how in ("square", "crop", "ratio")
    }
    # 30×70: the short side grows to 32, the long one to 74.7, floored to 72.
    assert shapes == {"square": (32, 32), "crop": (32, 32), "ratio": (32, 72)}
    # The long side stays within four times the size.
    assert MaskFit(how="ratio", size=32, patch_size=8).mask(np.zeros((1000, 100), np.int32)).shape == (128, 8)
    assert MaskFit(how="ratio", size=512, patch_size=16).mask(np.zeros((480, 640), np.int32)).shape == (512, 672)


def test_a_crop_shows_the_middle() -> None:
    mask = np.repeat(np.arange(80, dtype=np.int32)[None], 40, axis=0)
    np.testing.assert_array_equal(MaskFit(how="crop", size=40, patch_size=8).mask(mask)[0], np.arange(20, 60))
    np.testing.assert_array_equal(MaskFit(how="crop", size=20, patch_size=4).mask(mask)[7], np.arange(21, 60, 2))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 4]))
def test_shares_count_the_pixels_of_every_patch(seed: int, patch_size: int) -> None:
    mask = np.random.default_rng(seed).integers(-1, 3, (8, 12)).astype(np.int32)
    shares = class_shares(mask, patch_size=patch_size, num_classes=3)
    assert shares.shape == (8 // patch_size, 12 // patch_size, 3)
    for row, column, label in np.ndindex(shares.shape):
        patch = mask[row * patch_size :, column * patch_size :][:patch_size, :patch_size]
        assert shares[row, column, label] == pytest.approx((patch == label).mean())
