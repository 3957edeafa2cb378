"""Decoding against Pillow and hand-made pixels; base crops against torchvision's rule and Pillow's resize."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from flsl_jax.data.images import resize
from flsl_jax.data.images.decode import BaseCrop, DecodeError, base_crop, decode_image


def _photo(*, height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    """Smooth colours with some noise, so that JPEG keeps them roughly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / width, y * 255 / height, (x + y) * 255 / (height + width)]
    return np.clip(np.stack(channels, -1) + rng.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


def _encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_has_the_pixels_that_pillow_gives(subsampling: int, progressive: bool) -> None:
    data = _encode(Image.fromarray(_photo()), "JPEG", subsampling=subsampling, progressive=progressive)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data, name="a.jpg"), expected)


@pytest.mark.parametrize(("fmt", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_formats_come_back_exactly(fmt: str, options: dict[str, object]) -> None:
    pixels = _photo()
    np.testing.assert_array_equal(decode_image(_encode(Image.fromarray(pixels), fmt, **options), name="a"), pixels)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF"])
def test_grey_becomes_three_equal_channels(fmt: str) -> None:
    grey = Image.fromarray(_photo()).convert("L")
    data = _encode(grey, fmt)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data, name="a"), np.repeat(expected[:, :, None], 3, 2))


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_to_the_nearest_8_bit_value(fmt: str) -> None:
    values = np.linspace(0, 65535, 600).round().astype(np.uint16).reshape(20, 30)
    decoded = decode_image(_encode(Image.fromarray(values), fmt), name="a")
    np.testing.assert_array_equal(decoded[:, :, 0], np.floor(values / 257 + 0.5).astype(np.uint8))


def test_palette_is_looked_up() -> None:
    palette = Image.fromarray(_photo()).quantize(16)
    np.testing.assert_array_equal(decode_image(_encode(palette, "PNG"), name="a"), np.asarray(palette.convert("RGB")))


def test_one_bit_images_are_black_and_white() -> None:
    bits = _photo()[:, :, 0] > 127
    decoded = decode_image(_encode(Image.fromarray(bits), "PNG"), name="a")
    np.testing.assert_array_equal(decoded, np.repeat(bits[:, :, None], 3, 2) * np.uint8(255))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_on_white(mode: str) -> None:
    pixels, alpha = _photo(), np.zeros((37, 53), np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 255, 128
    image = Image.fromarray(np.dstack([pixels, alpha])).convert(mode)
    colour = np.asarray(image.convert("RGBA"))[:, :, :3].astype(np.float64)
    share = alpha[:, :, None] / 255.0
    decoded = decode_image(_encode(image, "PNG"), name="a")
    assert np.abs(decoded - (colour * share + 255 * (1 - share))).max() <= 1


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 0)
    decoded = decode_image(_encode(image, "PNG", transparency=1), name="a")
    assert decoded[1, 3].tolist() == [10, 20, 30]
    assert (np.delete(decoded.reshape(-1, 3), 7, axis=0) == 255).all()


def test_cmyk_jpeg_is_near_the_rgb_it_was_made_of() -> None:
    pixels = _photo()
    decoded = decode_image(_encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95), name="a")
    assert np.abs(decoded.astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_once(fmt: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _encode(Image.fromarray(_photo()), fmt, exif=exif, **({"lossless": True} if fmt == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert expected.shape[:2] == ((37, 53) if orientation < 5 else (53, 37))
    np.testing.assert_array_equal(decode_image(data, name="a"), expected)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_truncated_files_are_refused_by_name(fmt: str) -> None:
    data = _encode(Image.fromarray(_photo(height=120, width=150)), fmt)
    with pytest.raises(DecodeError, match="holiday"):
        decode_image(data[: len(data) * 2 // 3], name="holiday")


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff\xe0 no jpeg", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^a\.png: .+"):
        decode_image(data, name="a.png")


def test_floating_point_pixels_are_refused() -> None:
    with pytest.raises(DecodeError, match="8 or 16 bits"):
        decode_image(_encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), name="a")


def test_a_large_jpeg_is_halved_only_while_the_short_side_suffices() -> None:
    data = _encode(Image.fromarray(_photo(height=260, width=401)), "JPEG", quality=95)
    assert decode_image(data, name="a", min_side=131).shape == (260, 401, 3)
    assert decode_image(data, name="a", min_side=130).shape == (130, 201, 3)
    assert decode_image(data, name="a", min_side=65).shape == (65, 101, 3)


def test_halving_hardly_changes_the_final_picture() -> None:
    data = _encode(Image.fromarray(_photo(height=480, width=640)), "JPEG", quality=95)

    def final(min_side: int) -> np.ndarray:
        image = Image.fromarray(decode_image(data, name="a", min_side=min_side))
        return np.asarray(image.resize((64, 48), Image.Resampling.BICUBIC)).astype(int)

    assert decode_image(data, name="a", min_side=96).shape == (120, 160, 3)
    difference = np.abs(final(96) - final(0))
    assert difference.mean() < 0.5
    assert difference.max() <= 3


def _pillow_resized(image: np.ndarray, *, size: int) -> np.ndarray:
    """Pillow 13's resize, axis by axis, so that older versions give the same."""
    height, width = image.shape[:2]
    rows_first = height - size > 2 * max(width - size, 0)
    first = (width, size) if rows_first else (size, height)
    bicubic = Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(first, bicubic).resize((size, size), bicubic))


def _assert_equal_but_for_rounding(actual: np.ndarray, expected: np.ndarray, *, share: float) -> None:
    """Weights of 16 bits: at most `share` of the values off, by one level, or two where the second axis adds to it."""
    difference = np.abs(actual.astype(int) - expected)
    assert difference.max() <= 2
    assert np.mean(difference > 0) <= share


@given(
    height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 99), flip=st.booleans(),
    area=st.sampled_from([(0.8, 1.0), (0.05, 0.4), (1.0, 1.0)]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_base_crop_is_pillows_resize_of_an_allowed_box(
    height: int, width: int, seed: int, flip: bool, area: tuple[float, float]
) -> None:
    image = _photo(height=height, width=width, seed=seed)
    aspect = (3 / 4, 4 / 3)
    crop = base_crop(image, rng=np.random.default_rng(seed), size=16, area=area, aspect=aspect, flip=flip)
    left, top, crop_width, crop_height = crop.box
    assert left >= 0
    assert top >= 0
    assert 0 < crop_width <= width - left
    assert 0 < crop_height <= height - top
    # The sides are rounded to whole pixels, which is all that may lead out of the allowed range of aspects.
    assert (crop_width - 1) / (crop_height + 1) < aspect[1]
    assert (crop_width + 1) / (crop_height - 1 or 0.5) > aspect[0] or min(height, width) == 1
    expected = _pillow_resized(image[top : top + crop_height, left : left + crop_width], size=16)
    # Of a single column every row has one value only: one that is off counts for 2 %.
    _assert_equal_but_for_rounding(crop.image, expected[:, ::-1] if crop.flipped else expected, share=0.1)
    assert flip or not crop.flipped


def test_base_crop_is_pillows_without_the_vectorised_resizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "cykooz_resizer", None)
    image = _photo(height=90, width=120)
    crop = base_crop(image, rng=np.random.default_rng(0), size=32, area=(0.5, 1.0), aspect=(0.75, 1.3), flip=False)
    left, top, crop_width, crop_height = crop.box
    np.testing.assert_array_equal(
        crop.image, _pillow_resized(image[top : top + crop_height, left : left + crop_width], size=32)
    )


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 300), (150, 100), (224, 224)])
def test_base_crop_of_black_and_white_noise_is_pillows_at_full_size(height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    crop = base_crop(noise, rng=np.random.default_rng(0), size=224, area=(1.0, 1.0), aspect=(0.5, 2.0), flip=False)
    left, top, crop_width, crop_height = crop.box
    expected = _pillow_resized(noise[top : top + crop_height, left : left + crop_width], size=224)
    _assert_equal_but_for_rounding(crop.image, expected, share=0.01)


def test_pixels_outside_the_box_have_no_influence() -> None:
    def cropped(image: np.ndarray) -> BaseCrop:
        rng = np.random.default_rng(1)
        return base_crop(image, rng=rng, size=32, area=(0.3, 0.6), aspect=(3 / 4, 4 / 3), flip=False)

    image = _photo(height=90, width=120)
    crop = cropped(image)
    left, top, width, height = crop.box
    assert left > 0
    assert top > 0
    other = 255 - image
    other[top : top + height, left : left + width] = image[top : top + height, left : left + width]
    np.testing.assert_array_equal(cropped(other).image, crop.image)


def test_base_crop_draws_area_aspect_and_place_as_asked() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    rng = np.random.default_rng(0)
    crops = [base_crop(image, rng=rng, size=1, area=(0.2, 0.4), aspect=(3 / 4, 4 / 3), flip=True) for _ in range(800)]
    boxes = np.array([crop.box for crop in crops], np.float64)
    share = boxes[:, 2] * boxes[:, 3] / 120_000
    log_aspect = np.log(boxes[:, 2] / boxes[:, 3])
    assert 0.198 < share.min() < 0.205
    assert 0.395 < share.max() < 0.402
    # Five standard errors of the means of uniform distributions.
    assert abs(share.mean() - 0.3) < 5 * 0.2 / math.sqrt(12 * 800)
    assert abs(log_aspect.mean()) < 5 * 2 * math.log(4 / 3) / math.sqrt(12 * 800)
    assert abs((boxes[:, 0] / (400 - boxes[:, 2])).mean() - 0.5) < 5 / math.sqrt(12 * 800)
    assert abs(np.mean([crop.flipped for crop in crops]) - 0.5) < 5 * 0.5 / math.sqrt(800)


def test_base_crop_of_a_strip_is_the_largest_central_box() -> None:
    strip = np.zeros((10, 200, 3), np.uint8)
    crop = base_crop(strip, rng=np.random.default_rng(0), size=4, area=(0.8, 1.0), aspect=(3 / 4, 4 / 3), flip=False)
    assert crop.box == ((200 - 13) // 2, 0, 13, 10)


def test_base_crop_agrees_with_torchvision_where_it_is_installed() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    functional = pytest.importorskip("torchvision.transforms.functional")
    image = _photo(height=90, width=120)
    crop = base_crop(image, rng=np.random.default_rng(3), size=32, area=(0.5, 1.0), aspect=(3 / 4, 4 / 3), flip=False)
    left, top, width, height = crop.box
    bicubic = transforms.InterpolationMode.BICUBIC
    expected = functional.resized_crop(Image.fromarray(image), top, left, height, width, [32, 32], bicubic)
    _assert_equal_but_for_rounding(crop.image, np.asarray(expected), share=0.02)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(("data", "kind"), [(EPS, "EPS"), (None, "PCX"), (None, "ICO"), (None, "PDF")])
def test_other_formats_do_not_reach_their_readers(
    data: bytes | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if data is None:
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, kind)
        data = buffer.getvalue()
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(DecodeError, match=r"^x\.jpg: not an image in a known format$"):
        decode_image(data, name="x.jpg")


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_strips_of_a_large_image_give_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 41, 4), dtype=np.uint8)
    image = Image.fromarray(noise.view(np.uint16)[:, :, 0]) if mode == "I;16" else Image.fromarray(noise).convert("RGB")
    image = image if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": 3} if mode == "P" else {}))
    whole = decode_image(buffer.getvalue(), name="x")
    crops = [_crop(whole.transpose(axes), seed=seed) for axes in ((0, 1, 2), (1, 0, 2)) for seed in range(3)]
    for pixels in (1, 100, 41 * 7):
        monkeypatch.setattr("flsl_jax.data.images.decode.STRIP_PIXELS", pixels)
        np.testing.assert_array_equal(decode_image(buffer.getvalue(), name="x"), whole)
        for number, crop in enumerate(crops):
            again = _crop(whole.transpose((0, 1, 2) if number < 3 else (1, 0, 2)), seed=number % 3)
            np.testing.assert_array_equal(again, crop)


def _crop(image: np.ndarray, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return base_crop(image, rng=rng, size=9, area=(0.2, 1.0), aspect=(0.2, 5.0), flip=True).image


_PEAK = """
import resource, sys
from flsl_jax.data.images.decode import decode_image
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = decode_image(data, name="x").shape
print(*shape, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux")
@pytest.mark.parametrize("mode", ["1", "LA"])
def test_the_memory_for_a_huge_image_is_bounded(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (5000, 4000)).save(tmp_path / "huge.png")
    command = [sys.executable, "-c", _PEAK, str(tmp_path / "huge.png")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    height, width, channels, kilobytes = map(int, result.stdout.split())
    assert (height, width, channels) == (4000, 5000, 3)
    assert kilobytes * 1024 < 8 * height * width + 40e6
