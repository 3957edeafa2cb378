"""Where pixels lie among patches: by hand, and there and back."""

import numpy as np
import pytest

from flsl_jax.data.truth.keypoint_fit import KeypointFit


def test_a_square_is_stretched_and_a_padded_image_lies_in_the_middle() -> None:
    """An image of 40 × 20 px on 80 × 80 px with patches of 8: a pixel is 2 × 4 px there, or 2 × 2 px, 20 px down."""
    points = np.array([[0.0, 0.0], [39.0, 19.0]])
    square = KeypointFit(how="square", size=80, patch_size=8)
    np.testing.assert_allclose(
        square.to_patches(points, width=40, height=20), [[1 / 8 - 0.5, 2 / 8 - 0.5], [79 / 8 - 0.5, 78 / 8 - 0.5]]
    )
    padded = KeypointFit(how="pad", size=80, patch_size=8)
    np.testing.assert_allclose(
        padded.to_patches(points, width=40, height=20), [[1 / 8 - 0.5, 21 / 8 - 0.5], [79 / 8 - 0.5, 59 / 8 - 0.5]]
    )
    image = np.full((20, 40, 3), 200, np.uint8)
    assert (square.image(image) == 200).all()
    seen = padded.image(image)
    assert (seen[20:60] == 200).all()
    assert not seen[:20].any()
    assert not seen[60:].any()


@pytest.mark.parametrize("how", ["square", "pad"])
@pytest.mark.parametrize("size", [(500, 333), (375, 500), (1, 7)])
def test_there_and_back(how: str, size: tuple[int, int]) -> None:
    width, height = size
    fit = KeypointFit(how=how, size=224, patch_size=14)
    points = np.random.default_rng(0).uniform(0, 1, (20, 2)) * size
    back = fit.to_pixels(fit.to_patches(points, width=width, height=height), width=width, height=height)
    np.testing.assert_allclose(back, points, atol=1e-9)
