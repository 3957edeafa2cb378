"""Tokens of images with masks: in order, of any shape, each with its own mask."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import ClusteringConfig, MaskedSourceConfig
from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from tests.mask_encoders import scenes


class _Counting(PixelEncoder):
    def __init__(self) -> None:
        super().__init__(patch_size=8, image_size=32)
        self.shapes: list[tuple[int, ...]] = []

    def tokens(self, images):
        self.shapes.append(images.shape)
        return super().tokens(images)


def test_images_of_one_shape_come_in_their_order_in_whole_batches() -> None:
    source, encoder = open_masked(scenes(7, split="val", size=32)), _Counting()
    fit = MaskFit(how="square", size=32, patch_size=8)
    items = list(masked_tokens(source, encoder.tokens, fit, batch_size=4, title=""))
    assert [item.index for item in items] == list(range(7))
    assert encoder.shapes == [(4, 32, 32, 3)] * 2
    for item in items:
        record = source[item.index]
        np.testing.assert_array_equal(item.mask, record.mask)
        np.testing.assert_array_equal(item.judged, record.mask)
        np.testing.assert_allclose(item.tokens[1, 2], record.image[8:16, 16:24].reshape(-1) / 255 - 0.5, atol=1e-6)
    chosen = masked_tokens(source, encoder.tokens, fit, batch_size=4, title="", order=np.array([5, 2]))
    assert [item.index for item in chosen] == [5, 2]


@pytest.fixture
def mixed(tmp_path: Path) -> MaskedSourceConfig:
    """Twelve images of four shapes; every image and mask is filled with its number."""
    for number, (height, width) in enumerate([(32, 32), (32, 48), (40, 64), (32, 48), (64, 32), (32, 32)] * 2):
        for folder, pixels in (("i", np.full((height, width, 3), number)), ("m", np.full((height, width), number))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{number:02d}.png")
    return MaskedSourceConfig(images=str(tmp_path / "i"), masks=str(tmp_path / "m"))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_images_of_many_shapes_each_come_once_with_their_mask(mixed: MaskedSourceConfig, batch_size: int) -> None:
    source, encoder = open_masked(mixed), _Counting()
    fit = MaskFit(how="ratio", size=32, patch_size=8)
    items = list(masked_tokens(source, encoder.tokens, fit, batch_size=batch_size, title=""))
    assert sorted(item.index for item in items) == list(range(12))
    assert max(shape[0] for shape in encoder.shapes) <= batch_size
    for item in items:
        assert item.mask.shape == (8 * item.tokens.shape[0], 8 * item.tokens.shape[1])
        assert item.judged.shape == source[item.index].mask.shape
        np.testing.assert_array_equal(item.mask, item.index)
        np.testing.assert_allclose(item.tokens, item.index / 255 - 0.5, atol=1e-6)


def test_a_damaged_file_ends_it_with_its_name(mixed: MaskedSourceConfig) -> None:
    path = Path(mixed.masks) / "03.png"
    path.write_bytes(path.read_bytes()[:45])
    fit = MaskFit(how="square", size=32, patch_size=8)
    with pytest.raises(UserError, match=r"03\.png cannot be read"):
        list(masked_tokens(open_masked(mixed), _Counting().tokens, fit, batch_size=4, title=""))


def test_a_size_that_the_patch_does_not_divide_is_refused() -> None:
    assert make_fit(ClusteringConfig(size=0), patch_size=8, image_size=32) == MaskFit(how="crop", size=32, patch_size=8)
    with pytest.raises(UserError, match="size is 36; expected a multiple of the model's patch of 8 px"):
        make_fit(ClusteringConfig(size=36), patch_size=8, image_size=32)
