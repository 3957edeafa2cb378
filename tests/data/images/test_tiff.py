"""TIFF of any bands: values are those that were written, transparency is what the file says, and nothing is left out."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.images import tiff
from flsl_jax.data.images.decode import DecodeError, Decoding, decode_image

RNG = np.random.default_rng(0)


def written(array, **options):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def by_pillow(array, mode):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bands", [2, 4, 13])
def test_bands_are_those_that_were_written(bands, planar, big, order):
    levels = RNG.integers(0, 256, (9, 7, bands), np.uint8)
    array = levels if planar == "contig" else levels.transpose(2, 0, 1)
    data = written(array, photometric="minisblack", planarconfig=planar, bigtiff=big, byteorder=order)
    page = tiff.read_page(data)
    assert (page.height, page.width, page.samples, page.bands, page.alpha) == (9, 7, bands, bands, None)
    np.testing.assert_array_equal(decode_image(data, name="a", decoding=Decoding(channels=bands)), levels)
    for channels in (1, 3):
        with pytest.raises(DecodeError, match=f"a.tif: it has {bands} bands, and {channels} are wanted"):
            decode_image(data, name="a.tif", decoding=Decoding(channels=channels))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_compressed_16_bit_bands(compression):
    if compression == "lzw":
        pytest.importorskip("imagecodecs")
    values = RNG.integers(0, 65536, (33, 20, 6)).astype(np.uint16)
    data = written(values, photometric="minisblack", planarconfig="contig", compression=compression, tile=(16, 16))
    expected = (values.astype(np.uint32) * 255 + 32767) // 65535
    np.testing.assert_array_equal(decode_image(data, name="a", decoding=Decoding(channels=6)), expected)


def test_three_bands_that_are_not_called_colour_are_colour():
    levels = RNG.integers(0, 256, (9, 7, 3), np.uint8)
    data = written(levels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(decode_image(data, name="a"), levels)


def test_a_fourth_band_is_transparency_only_if_the_file_says_so():
    levels = RNG.integers(0, 256, (9, 7, 4), np.uint8)
    said, unsaid = (written(levels, photometric="rgb", extrasamples=(kind,)) for kind in ("unassalpha", "unspecified"))
    white = Image.new("RGBA", (7, 9), "white")
    composited = np.asarray(Image.alpha_composite(white, Image.fromarray(levels)))[..., :3]
    np.testing.assert_array_equal(decode_image(said, name="a"), composited)
    with pytest.raises(DecodeError, match="it has 4 bands, and 3 are wanted"):
        decode_image(unsaid, name="a")
    for data in (said, unsaid):  # so many are asked for
        np.testing.assert_array_equal(decode_image(data, name="a", decoding=Decoding(channels=4)), levels)


def test_bands_and_transparency_beside_each_other():
    levels = RNG.integers(0, 256, (9, 7, 5), np.uint8)
    levels[:4, :, 4] = 0
    levels[4:, :, 4] = 255
    data = written(levels, photometric="rgb", extrasamples=("unspecified", "unassalpha"))
    page = tiff.read_page(data)
    assert (page.bands, page.alpha) == (4, 4)
    found = decode_image(data, name="a", decoding=Decoding(channels=4))
    assert (found[:4] == 255).all()
    np.testing.assert_array_equal(found[4:], levels[4:, :, :4])


@pytest.mark.parametrize(
    ("array", "mode", "bands"),
    [(RNG.integers(0, 256, (5, 6, 3), np.uint8), "RGB", 3), (RNG.integers(0, 256, (5, 6), np.uint8), "L", 1)],
)
def test_what_pillow_reads_whole_it_reads(array, mode, bands):
    data = by_pillow(array, mode)
    page = tiff.read_page(data)
    assert page.bands == bands
    assert not tiff.beyond_pillow(page, Decoding())


def test_a_window_of_16_bit_colour_sees_all_16_bits():
    values = np.array([[[1000, 1002, 1255], [1510, 65535, 0]]], np.uint16)
    data = written(values, photometric="rgb")
    found = decode_image(data, name="a", decoding=Decoding(window=(1000.0, 1510.0)))
    assert found.tolist() == [[[0, 1, 128], [255, 255, 0]]]
    assert decode_image(data, name="a").tolist() == (values >> 8).tolist()  # as ever: the high byte


def test_pages_know_smaller_copies_and_masks():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(np.zeros((8, 8), np.uint8))
        file.write(np.zeros((4, 4), np.uint8), subfiletype=1)
        file.write(np.zeros((9, 8), np.uint8))
    found = list(tiff.pages(buffer.getvalue()))
    assert [(page.number, page.height, page.reduced) for page in found] == [(0, 8, False), (1, 4, True), (2, 9, False)]


def test_a_circle_of_pages_ends():
    data = bytearray(by_pillow(np.zeros((4, 4), np.uint8), "L"))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    assert len(list(tiff.pages(bytes(data)))) == 1


@pytest.mark.parametrize("length", [4, 8, 20, 120])
def test_a_header_that_is_cut_off_is_one_line(length):
    data = written(np.zeros((16, 16, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DecodeError, match=r"^a.tif: "):
        decode_image(data[:length], name="a.tif", decoding=Decoding(channels=5))


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_truncated_file_is_refused(compression):
    values = RNG.integers(0, 65536, (64, 64, 5)).astype(np.uint16)
    data = written(values, photometric="minisblack", planarconfig="contig", compression=compression)
    with pytest.raises(DecodeError, match=r"^a.tif: "):
        decode_image(data[: len(data) // 2], name="a.tif", decoding=Decoding(channels=5))


def test_a_header_that_claims_a_huge_image_takes_no_memory():
    data = bytearray(written(np.zeros((4, 4, 5), np.uint8), photometric="minisblack", planarconfig="contig"))
    (start,) = struct.unpack_from("<I", data, 4)
    for field in range(struct.unpack_from("<H", data, start)[0]):
        place = start + 2 + 12 * field
        if struct.unpack_from("<H", data, place)[0] in (256, 257):
            struct.pack_into("<HII", data, place + 2, 4, 1, 2_000_000)
    with pytest.raises(DecodeError, match="2000000×2000000 pixels with 5 samples are more than can be read"):
        decode_image(bytes(data), name="a.tif", decoding=Decoding(channels=5))


def test_without_the_library_it_is_named(monkeypatch):
    data = written(np.zeros((4, 4, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(DecodeError, match=r"needs tifffile .*; pip install tifffile imagecodecs"):
        decode_image(data, name="a.tif", decoding=Decoding(channels=5))
