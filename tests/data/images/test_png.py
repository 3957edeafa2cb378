"""16-bit colour in PNG is read whole where a window asks for it."""

import struct
import zlib

import numpy as np
import pytest

from flsl_jax.data.images.decode import DecodeError, Decoding, decode_image
from flsl_jax.data.images.png import deep_colour, has_16_bits

VALUES = np.random.default_rng(0).integers(0, 65536, (7, 9, 4)).astype(np.uint16)


def png16(values):
    """A PNG of 16 bits: one band is grey, two are grey with transparency, three and four colour."""
    height, width, bands = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("bands", [3, 4])
def test_all_bits_are_read(bands):
    data = png16(VALUES[..., :bands])
    assert has_16_bits(data)
    np.testing.assert_array_equal(deep_colour(data), VALUES[..., :bands])


def test_a_window_acts_on_colour_and_transparency_lies_on_white():
    values = np.array([[[1000, 1002, 1255, 65535], [1510, 65535, 0, 65535], [1510, 1000, 1000, 0]]], np.uint16)
    decoding = Decoding(window=(1000.0, 1510.0))
    levels = decode_image(png16(values[..., :3]), name="a", decoding=decoding)
    assert levels.tolist() == [[[0, 1, 128], [255, 255, 0], [255, 0, 0]]]
    opaque = decode_image(png16(values), name="a", decoding=decoding)
    assert opaque.tolist() == [[[0, 1, 128], [255, 255, 0], [255, 255, 255]]]
    four = decode_image(png16(values), name="a", decoding=Decoding(channels=4, window=(1000.0, 1510.0)))
    assert four[0, 2].tolist() == [255, 0, 0, 0]


def test_a_window_acts_on_grey():
    values = np.array([[[1000], [1255], [1510]]], np.uint16)
    decoding = Decoding(channels=1, window=(1000.0, 1510.0))
    assert decode_image(png16(values), name="a", decoding=decoding)[..., 0].tolist() == [[0, 128, 255]]


def test_without_a_window_colour_is_its_high_byte_as_ever():
    np.testing.assert_array_equal(decode_image(png16(VALUES[..., :3]), name="a"), VALUES[..., :3] >> 8)


def test_grey_with_transparency_and_damage_are_one_line():
    with pytest.raises(DecodeError, match=r"a.png: 16-bit grey with transparency cannot be read with data\.window"):
        decode_image(png16(VALUES[..., :2]), name="a.png", decoding=Decoding(window=(0.0, 9.0)))
    with pytest.raises(DecodeError, match=r"^a.png: "):
        decode_image(png16(VALUES[..., :3])[:-40], name="a.png", decoding=Decoding(window=(0.0, 9.0)))
