"""`.npy` files as images: any type and order, and damaged or hostile ones in one line."""

import io

import numpy as np
import pytest

from flsl_jax.data.images.decode import DecodeError, Decoding, decode_image

VALUES = np.random.default_rng(0).integers(0, 65536, (6, 9, 5)).astype(np.uint16)
FIVE = Decoding(channels=5)


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("array", [VALUES, np.asfortranarray(VALUES), VALUES.astype(">u2"), VALUES.astype(np.int64)])
def test_values_are_those_of_the_array(array):
    expected = (VALUES.astype(np.uint32) * 255 + 32767) // 65535
    np.testing.assert_array_equal(decode_image(saved(array), name="a.npy", decoding=FIVE), expected)


def test_two_axes_are_grey_and_bytes_are_levels():
    levels = (VALUES[..., 0] >> 8).astype(np.uint8)
    np.testing.assert_array_equal(decode_image(saved(levels), name="a"), np.repeat(levels[..., None], 3, axis=-1))
    single = decode_image(saved(levels[..., None]), name="a", decoding=Decoding(channels=1))
    np.testing.assert_array_equal(single[..., 0], levels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(VALUES)[:-1], "the file is truncated: 539 bytes of 540"),
        (saved(VALUES)[:50], "no array as NumPy saves it"),
        (saved(VALUES) + b"x", "the file is truncated: 541 bytes of 540"),
        (saved(VALUES.transpose(2, 0, 1)), r"an array of shape \(5, 6, 9\) has its bands first"),
        (saved(np.zeros((20, 32, 24), np.uint8)), r"an array of shape \(20, 32, 24\) would have 24 bands; save an image as"),
        (saved(np.zeros((0, 4), np.uint8)), r"an array of shape \(0, 4\) is no image"),
        (saved(np.zeros(7, np.uint8)), r"an array of shape \(7,\) is no image"),
        (saved(np.zeros((4, 4), np.complex64)), "an array of complex64 is no image"),
        (saved(np.array([["a"]])), "an array of <U1 is no image"),
        (saved(np.zeros((4, 4, 4), np.uint8)), "it has 4 bands, and 5 are wanted"),
        (saved(np.full((4, 4, 5), np.nan)), "floating-point pixels have no known range"),
    ],
)  # fmt: skip
def test_other_arrays_are_one_line(data, message):
    with pytest.raises(DecodeError, match=f"^a.npy: {message}"):
        decode_image(data, name="a.npy", decoding=FIVE)


def test_objects_are_never_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([[{}]]), allow_pickle=True)
    with pytest.raises(DecodeError, match="an array of object is no image"):
        decode_image(buffer.getvalue(), name="a.npy")


def test_a_header_that_claims_a_huge_array_takes_no_memory():
    data = saved(np.zeros((4, 4), np.uint8))
    with pytest.raises(DecodeError, match="truncated: 16 bytes of 9,999,999,999,999"):
        decode_image(data.replace(b"(4, 4), }" + b" " * 19, b"(1, 9999999999999), }" + b" " * 7), name="a.npy")
