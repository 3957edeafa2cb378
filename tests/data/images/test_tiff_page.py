"""A page that is cut out of a TIFF stack decodes to the pixels that the whole file gives, and the rest is not read."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images import tiff_page
from flsl_jax.data.images.decode import DecodeError, Decoding, decode_image
from flsl_jax.data.sources.opening import open_source
from flsl_jax.data.sources.pages import page_numbers

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_page, "LARGE_BYTES", 1)


def by_pillow(path: Path, mode: str, **options: object) -> None:
    """Four pages of random pixels, of different sizes."""
    pages = [Image.fromarray(RNG.integers(0, 256, (40 + number, 70, 3), np.uint8)).convert(mode) for number in range(4)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"compression": "tiff_lzw"}),
        ("RGB", {"compression": "tiff_adobe_deflate"}),
        ("RGB", {"compression": "jpeg"}),
        ("RGB", {"big_tiff": True}),
        ("RGBA", {}),
        ("P", {"compression": "packbits"}),
        ("1", {"compression": "group4"}),
        ("L", {"tiffinfo": {274: 6, 270: "a stack"}}),
        ("CMYK", {}),
    ],
)
def test_every_page_has_the_pixels_that_the_whole_file_gives(mode: str, options: dict, tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    by_pillow(path, mode, **options)
    whole = path.read_bytes()
    assert tiff_page.page_numbers(str(path)) == page_numbers(whole) == [0, 1, 2, 3]
    for number in (3, 0, 2):
        alone = tiff_page.read_one(str(path), number=number)
        assert alone is not None
        assert len(alone) < len(whole) / 2
        np.testing.assert_array_equal(decode_image(alone, name="x"), decode_image(whole, name="x", page=number))


@pytest.mark.parametrize(
    "options",
    [
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (16, 32), "compression": "zlib", "predictor": True},
        {"planarconfig": "separate", "rowsperstrip": 7},
        {"imagej": True},
        {"ome": True, "compression": "lzw"},
    ],
)
def test_stacks_of_microscopes_and_satellites_too(options: dict, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "stack.tif"
    bands = 5 if "planarconfig" in options else 1
    values = RNG.integers(0, 4096, (3, 5, 40, 52) if bands == 5 else (3, 40, 52)).astype(np.uint16)
    try:
        tifffile.imwrite(path, values, **{"photometric": "minisblack", **options})
    except (ImportError, ValueError, KeyError) as error:
        pytest.skip(f"needs imagecodecs: {error}")
    decoding, whole = Decoding(channels=bands, window=(0.0, 4095.0)), path.read_bytes()
    assert tiff_page.page_numbers(str(path)) == [0, 1, 2]
    for number in (2, 0, 1):
        alone = tiff_page.read_one(str(path), number=number)
        assert alone is not None
        found = decode_image(alone, name="x", decoding=decoding)
        np.testing.assert_array_equal(found, decode_image(whole, name="x", decoding=decoding, page=number))
        page = np.moveaxis(values[number], 0, -1) if bands == 5 else values[number][..., None]
        np.testing.assert_array_equal(found, np.floor(page * np.float32(255 / 4095) + 0.5))


def test_what_cannot_be_cut_out_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    by_pillow(path, "RGB")
    whole = path.read_bytes()
    assert tiff_page.read_one(str(path), number=4) is None  # there is no such page
    for damaged in (
        whole[: len(whole) // 2],
        b"II*\0" + struct.pack("<I", 8) + b"\xff" * 40,
        b"II*\0",
        b"no TIFF",
        b"",
    ):
        path.write_bytes(damaged)
        assert tiff_page.read_one(str(path), number=3) is None
        assert tiff_page.page_numbers(str(path)) in (None, page_numbers(damaged))
    path.unlink()
    assert tiff_page.read_one(str(path), number=0) is tiff_page.page_numbers(str(path)) is None
    os.mkfifo(path)
    assert tiff_page.read_one(str(path), number=0) is tiff_page.page_numbers(str(path)) is None


def test_damage_inside_a_page_is_named_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    by_pillow(path, "RGB", compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    (offset,) = Image.open(io.BytesIO(data)).tag_v2[273]
    data[offset : offset + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(DecodeError, match=r"^x: "):
        decode_image(tiff_page.read_one(str(path), number=0) or b"", name="x")


@pytest.mark.parametrize("several", [False, True])
def test_all_pages_of_a_folder_are_read_without_the_rest(several: bool, tmp_path: Path, monkeypatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        by_pillow(tmp_path / folder / "stack.tif", "RGB")
    root = f"{tmp_path / 'a'},{tmp_path / 'b'}" if several else str(tmp_path)
    monkeypatch.setattr(tiff_page, "LARGE_BYTES", 1 << 30)
    before = open_source(SourceConfig(root=root, pages="all"))
    expected = [before[index] for index in range(8)]
    monkeypatch.setattr(tiff_page, "LARGE_BYTES", 1)
    with monkeypatch.context() as patched:
        patched.setattr("flsl_jax.data.sources.files.read_file", None)  # no file is read whole
        source = pickle.loads(pickle.dumps(open_source(SourceConfig(root=root, pages="all"))))
        records = [source[index] for index in range(8)]
    assert source.digest == before.digest
    for found, wanted in zip(records, expected):
        assert (found.name, found.label) == (wanted.name, wanted.label)
        np.testing.assert_array_equal(
            decode_image(found.image, name="x", page=found.page), decode_image(wanted.image, name="x", page=wanted.page)
        )
