"""Every kind of image gives the same input; it is normalised as the weights say; what is no image is one line."""

import re

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import flsl_jax
from flsl_jax.features import as_backbone
from flsl_jax.models import Architecture, ViT

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ARCHITECTURE = Architecture(patch_size=8, width=16, depth=1, num_heads=2, grid=(4, 4))
MODEL = as_backbone(ViT(ARCHITECTURE, rngs=nnx.Rngs(0)), mean=MEAN, std=STD)
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 44, 3), np.uint8)


def test_levels_are_normalised_as_the_weights_say_and_padding_is_their_mean():
    found = np.asarray(flsl_jax.preprocess(PIXELS, MODEL))
    assert (found.shape, found.dtype) == ((1, 32, 48, 3), np.float32)
    np.testing.assert_allclose(found[0, :, :44], (PIXELS / 255 - MEAN) / STD, atol=1e-5)
    assert not found[:, :, 44:].any()


def test_paths_pillow_images_arrays_lists_and_batches_are_the_same(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    expected = flsl_jax.preprocess(PIXELS, MODEL)
    kinds = (tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(PIXELS), [PIXELS], PIXELS[None])
    for images in kinds:
        np.testing.assert_array_equal(flsl_jax.preprocess(images, MODEL), expected)
    both = flsl_jax.preprocess([PIXELS, tmp_path / "image.png"], MODEL)
    np.testing.assert_array_equal(both, np.concatenate([expected, expected]))
    grey = flsl_jax.preprocess(PIXELS[..., 0], MODEL)
    np.testing.assert_array_equal(grey, flsl_jax.preprocess(PIXELS[..., :1].repeat(3, axis=-1), MODEL))


def test_a_turned_pillow_image_is_upright_as_its_file_is(tmp_path):
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        found = flsl_jax.preprocess(opened, MODEL, size=0)
    assert found.shape == (1, 48, 32, 3)
    np.testing.assert_array_equal(found, flsl_jax.preprocess(tmp_path / "turned.png", MODEL, size=0))


def test_crops_of_images_of_many_sizes_are_one_array():
    images = [PIXELS, PIXELS[:, :20], np.zeros((100, 30, 3), np.uint8)]
    assert flsl_jax.preprocess(images, MODEL, crop=True).shape == (3, 32, 32, 3)
    assert flsl_jax.preprocess(images, MODEL, size=16, crop=True).shape == (3, 16, 16, 3)
    with pytest.raises(flsl_jax.UserError, match=r"of 3 sizes, such as .* crop=True makes squares .* model.each"):
        flsl_jax.preprocess(images, MODEL)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS / 255, "an image is an array of float64; expected uint8"),
        (PIXELS.astype(np.uint16), "an image is an array of uint16"),
        (PIXELS.transpose(2, 0, 1), r"an image has shape \(3, 32, 44\); expected \[height, width, 3\]"),
        (PIXELS[:0], r"an image has shape \(0, 44, 3\)"),
        (["nowhere.jpg"], "nowhere.jpg cannot be read"),
        ([], "there is no image"),
        ([None], "an image is an array of object"),
    ],
)
def test_what_is_no_image_is_one_line(images, message):
    with pytest.raises(flsl_jax.UserError, match=message) as refused:
        flsl_jax.preprocess(images, MODEL)
    assert "\n" not in str(refused.value)


def test_what_is_no_model_is_one_line():
    with pytest.raises(flsl_jax.UserError, match=r"model is a str; expected what flsl_jax\.load returns"):
        flsl_jax.preprocess(PIXELS, "runs/mine")


def test_a_file_that_is_no_image_is_one_line(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(flsl_jax.UserError, match=r"text.jpg: not an image in a known format; give an image file"):
        flsl_jax.preprocess(tmp_path / "text.jpg", MODEL)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pillow_images_lie_on_white_as_their_files_do(mode, tmp_path):
    shape = (32, 44, 4) if mode == "RGBA" else (32, 44, 2)
    levels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    image = Image.fromarray(PIXELS).quantize(8) if mode == "P" else Image.fromarray(levels, mode)
    if mode == "P":
        image.info["transparency"] = 3
    image.save(tmp_path / "image.png", **({"transparency": 3} if mode == "P" else {}))
    np.testing.assert_array_equal(flsl_jax.preprocess(image, MODEL), flsl_jax.preprocess(tmp_path / "image.png", MODEL))


def test_a_model_of_other_bands_takes_those(tmp_path):
    architecture = Architecture(patch_size=8, width=16, depth=1, num_heads=2, grid=(4, 4), channels=5)
    model = as_backbone(ViT(architecture, rngs=nnx.Rngs(0)), mean=(0.1, 0.2, 0.3, 0.4, 0.5), std=(0.5,) * 5)
    levels = np.random.default_rng(1).integers(0, 256, (32, 40, 5), np.uint8)
    np.save(tmp_path / "image.npy", levels)
    found = flsl_jax.preprocess(tmp_path / "image.npy", model, size=0)
    np.testing.assert_allclose(found[0], (levels / 255 - model.mean) / model.std, atol=1e-5)
    np.testing.assert_array_equal(flsl_jax.preprocess(levels, model, size=0), found)
    assert model(found).shape == (1, 4, 5, 16)
    with pytest.raises(flsl_jax.UserError, match=r"shape \(32, 44, 3\); expected \[height, width, 5\]"):
        flsl_jax.preprocess(PIXELS, model)
    with pytest.raises(flsl_jax.UserError, match="it has 3 bands, and 5 are wanted"):
        flsl_jax.preprocess(Image.fromarray(PIXELS), model)


def test_a_model_of_one_channel_takes_grey_and_the_luma_of_colour():
    architecture = Architecture(patch_size=8, width=16, depth=1, num_heads=2, grid=(4, 4), channels=1)
    model = as_backbone(ViT(architecture, rngs=nnx.Rngs(0)), mean=(0.5,), std=(0.5,))
    luma = np.asarray(Image.fromarray(PIXELS).convert("L"))
    expected = flsl_jax.preprocess(luma, model)
    for images in (PIXELS, Image.fromarray(PIXELS), Image.fromarray(luma), luma[..., None]):
        np.testing.assert_array_equal(flsl_jax.preprocess(images, model), expected)


def test_encoded_bytes_are_read_as_their_file_is(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    expected = flsl_jax.preprocess(tmp_path / "a.png", MODEL)
    np.testing.assert_array_equal(flsl_jax.preprocess(data, MODEL), expected)
    assert flsl_jax.preprocess([data, data], MODEL).shape == (2, *expected.shape[1:])
    with pytest.raises(flsl_jax.UserError, match="an image in memory: the file is empty; give an image file"):
        flsl_jax.preprocess(b"", MODEL)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_the_first_file_that_is_nearly_black_with_8_bits_is_named(suffix, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("flsl_jax.features.preprocessing._SAID", [])
    ramp = np.arange(32 * 44, dtype=np.uint16).reshape(32, 44)
    for name, factor in (("bright", 40), ("dark", 2), ("next", 2)):
        Image.fromarray(ramp * np.uint16(factor)).save(tmp_path / f"{name}.{suffix}")
        flsl_jax.preprocess(tmp_path / f"{name}.{suffix}", MODEL)
    Image.new("L", (44, 32), 3).save(tmp_path / f"night.{suffix}")  # 8 bits are as they are
    flsl_jax.preprocess(tmp_path / f"night.{suffix}", MODEL)
    (message,) = caplog.messages
    assert message.startswith(str(tmp_path / f"dark.{suffix}"))
    assert "its brightest value uses 4 %" in message  # 2 · 1407 of 65535


@pytest.mark.parametrize(
    ("shape", "advice"), [((1, 3, 32, 40), "images.transpose(0, 2, 3, 1)"), ((32, 40, 3), "one image is images[None]")]
)
def test_axes_in_another_order_are_told(shape, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        MODEL(np.zeros(shape, np.float32))
