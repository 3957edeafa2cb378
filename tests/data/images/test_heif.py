"""HEIC photos are read where pillow-heif is installed, and are named with what to install where it is not."""

import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from flsl_jax.config import SourceConfig
from flsl_jax.data.images import heif
from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.data.images.image_files import size_of, upright_size
from flsl_jax.data.images.listing import list_images
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError

needs_heif = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")


def container(*brands: bytes) -> bytes:
    """The first box of a file in the container of HEIC and AVIF."""
    body = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (4 + len(body)).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (container(b"heic", b"mif1", b"heic"), True),
        (container(b"mif1", b"heic"), True),
        (container(b"mif1", b"avif", b"miaf"), False),
        (container(b"avif", b"mif1"), False),
        (container(b"isom", b"mp42"), False),
        (b"\xff\xff\xff\xffftyp", False),
        (b"", False),
    ],
)
def test_the_brand_tells_heic_from_avif_and_video(head: bytes, expected: bool) -> None:
    assert heif.is_heif(head) == expected


def phone(path: Path, *, orientation: int = 1) -> np.ndarray:
    """A HEIC photo of 48 × 32, a dark half on the left, and its upright levels."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    levels = np.full((32, 48, 3), 200, np.uint8)
    levels[:, :24] = 40
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(levels)
    image.info["exif"] = exif.tobytes()  # so the turn is in the container too, as phones have it
    image.save(path, quality=100)
    turns = {1: 0, 6: 3}[orientation]
    return np.rot90(levels, turns)


@needs_heif
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_photo_of_a_phone_is_read_upright(orientation: int, tmp_path: Path) -> None:
    upright = phone(tmp_path / "IMG_1.HEIC", orientation=orientation)
    (record,) = open_source(SourceConfig(root=str(tmp_path)))
    pixels = decode_image(record.image, name=record.name)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 4
    assert size_of(record.image, name="x") == upright_size(tmp_path / "IMG_1.HEIC") == upright.shape[1::-1]


@needs_heif
def test_a_damaged_photo_is_named(tmp_path: Path) -> None:
    phone(tmp_path / "a.heic")
    data = (tmp_path / "a.heic").read_bytes()
    for damaged in (data[: len(data) // 2], data[:40], data[:200] + bytes(len(data) - 200)):
        with pytest.raises(DecodeError, match=r"^a\.heic: "):
            decode_image(damaged, name="a.heic")


def test_without_the_package_photos_are_passed_over_and_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("IMG_1.HEIC", "IMG_2.heif"):
        (tmp_path / name).write_bytes(container(b"heic", b"mif1"))
    with pytest.raises(
        UserError, match=r"holds no image file .*passed over: 2 HEIC, which `pip install pillow-heif` reads"
    ):
        open_source(SourceConfig(root=str(tmp_path)))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert str(list_images(str(tmp_path))) == (
        "images: 1 PNG; passed over: 2 HEIC, which `pip install pillow-heif` reads"
    )
    with pytest.raises(
        DecodeError, match=r"^x: a HEIC file needs pillow-heif .*; `pip install pillow-heif`, or save it"
    ):
        decode_image(container(b"heic", b"mif1"), name="x")
    with pytest.raises(UserError, match=r"IMG_1\.HEIC cannot be read \(.*pip install pillow-heif"):
        upright_size(tmp_path / "IMG_1.HEIC")


@pytest.mark.skipif("avif" not in features.modules or not features.check("avif"), reason="a Pillow without AVIF")
def test_avif_is_an_image_like_others(tmp_path: Path) -> None:
    image, stream = Image.new("RGB", (40, 24), (200, 60, 20)), io.BytesIO()
    image.save(tmp_path / "web.avif", quality=100)
    image.save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    assert str(list_images(str(tmp_path))) == "images: 1 PNG, 1 AVIF; passed over: nothing"
    pixels = decode_image((tmp_path / "web.avif").read_bytes(), name="web.avif")
    assert pixels.shape == (24, 40, 3)
    assert np.abs(pixels.astype(int) - (200, 60, 20)).max() <= 4
