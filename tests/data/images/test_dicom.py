"""DICOM images: values as slope, intercept and windows say, worked out by hand; damaged and hostile files in one line."""

import io
import sys

import numpy as np
import pytest

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, decode_image
from flsl_jax.data.images.image_files import size_of, upright_size
from flsl_jax.data.images.listing import list_images
from flsl_jax.data.sources.opening import FolderSource, open_any, open_source
from flsl_jax.data.sources.pages import page_numbers
from flsl_jax.data.sources.survey import survey

pydicom = pytest.importorskip("pydicom")
GREY = Decoding(channels=1)
# Stored 12-bit values; with slope 1 and intercept -1024: -1024, -24, 976, 3071.
STORED = np.array([[0, 1000], [2000, 4095]], np.uint16)
CT = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}


def dicom(pixels, *, photometric="MONOCHROME2", frames=0, bits=12, **fields):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    shape = pixels.shape[1:] if frames else pixels.shape
    data.Rows, data.Columns = shape[:2]
    data.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = min(bits, data.BitsAllocated)
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    if data.SamplesPerPixel > 1:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def levels(data, decoding=GREY, **options):
    return decode_image(data, name="a.dcm", decoding=decoding, **options)[..., 0].tolist()


def test_a_window_is_of_the_values_after_slope_and_intercept():
    # From -1024 to 4076 is 5100 wide: (v + 1024) / 20.
    data = dicom(STORED, **CT)
    assert levels(data, Decoding(channels=1, window=(-1024.0, 4076.0))) == [[0, 50], [100, 205]]
    assert levels(data, Decoding(channels=1, window=(-24.0, 976.0))) == [[0, 0], [255, 255]]


def test_without_one_the_files_own_window_counts_else_its_stored_bits():
    # Centre 976.5 and width 2001: from -24 to 1976; 976 is in the middle.
    own = dicom(STORED, WindowCenter="976.5", WindowWidth="2001", **CT)
    assert levels(own) == [[0, 0], [128, 255]]
    several = dicom(STORED, WindowCenter=["976.5", "40"], WindowWidth=["2001", "400"], **CT)
    assert levels(several) == levels(own)
    # 0 … 4095: 1000 / 4095 · 255 = 62.3, 2000 / 4095 · 255 = 124.5.
    assert levels(dicom(STORED, **CT)) == [[0, 62], [125, 255]]


def test_signed_values_and_inverted_ones():
    signed = np.array([[-2048, 0], [1023, 2047]], np.int16)
    # (v + 2048) / 4095 · 255
    assert levels(dicom(signed)) == [[0, 128], [191, 255]]
    assert levels(dicom(STORED, photometric="MONOCHROME1")) == [[255, 193], [130, 0]]


def test_colour_is_colour_and_grey_becomes_it():
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(dicom(colours, photometric="RGB"), name="a"), colours)
    assert decode_image(dicom(STORED), name="a").shape == (2, 2, 3)
    with pytest.raises(DecodeError, match=r"a.dcm: it has 1 band, and 4 are wanted"):
        levels(dicom(STORED), Decoding(channels=4))


def test_frames_are_pages_with_values_of_their_own():
    stack = np.stack([STORED, STORED[::-1], STORED.T])
    data = dicom(stack, frames=3)
    assert page_numbers(data) == [0, 1, 2]
    assert levels(data, page=1) == [[125, 255], [0, 62]]
    assert levels(data, page=2) == [[0, 125], [62, 255]]
    transformed = pydicom.dataset.Dataset()
    transformed.RescaleSlope, transformed.RescaleIntercept = "2", "-10"
    shared = pydicom.dataset.Dataset()
    shared.PixelValueTransformationSequence = [transformed]
    data = dicom(stack, frames=3, SharedFunctionalGroupsSequence=[shared])
    # 2 v - 10 from -10 to 500: v over 2.
    assert levels(data, Decoding(channels=1, window=(-10.0, 500.0))) == [[0, 255], [255, 255]]


def test_a_folder_of_them_is_a_data_set(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.dcm").write_bytes(dicom(STORED, **CT))
    source = FolderSource(tmp_path)
    assert (len(source), dict(source.listing.formats)) == (2, {"DICOM": 2})
    found = survey(source)
    assert (found.deep[0].low, found.deep[0].high, found.dark()) == (-1024, 3071, "")
    assert found.window() == (-1024.0, 3071.0)
    assert upright_size(tmp_path / "0.dcm") == size_of(dicom(STORED), name="a") == (2, 2)
    (tmp_path / "c.dicom").write_bytes(dicom(np.stack([STORED] * 4), frames=4))
    assert len(open_source(SourceConfig(root=str(tmp_path), pages="all"))) == 6
    (tmp_path / "photo.jpg").touch()
    assert len(FolderSource(tmp_path)) == 1  # beside images they are passed over


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(128) + b"DICM", "no DICOM image"),
        (bytes(128) + b"DICM" + bytes(50), "no DICOM image"),
        (dicom(STORED)[:-3], "a.dcm: "),
        (dicom(STORED, Rows=60000, Columns=60000), "60000×60000 pixels with 1 samples cannot be read"),
        (dicom(STORED, Rows=0), "2×0 pixels"),
        (dicom(np.stack([STORED] * 2), frames=9), "a.dcm: "),
    ],
)
def test_damaged_and_hostile_files_are_one_line(data, message):
    with pytest.raises(DecodeError, match=message) as refused:
        decode_image(data, name="a.dcm", decoding=RGB)
    assert "\n" not in str(refused.value)


def test_without_the_library_it_is_named(monkeypatch):
    data = dicom(STORED)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DecodeError, match=r"a DICOM file needs pydicom .*; pip install pydicom"):
        levels(data)


def test_a_series_without_suffixes_is_a_folder_of_images(tmp_path):
    """As scanners and archives write it: names without suffix, UIDs that end in a number, an index beside them."""
    data = b"".join([bytes(128), b"DICM", bytes(20)])
    (tmp_path / "ST1" / "SE1").mkdir(parents=True)
    for name in ("ST1/SE1/IM000001", "ST1/SE1/1.2.840.113619.2.55.3", "ST1/SE1/a.IMA", "DICOMDIR"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README").write_text("nothing")
    listing = list_images(str(tmp_path))
    assert listing.paths == [b"ST1/SE1/1.2.840.113619.2.55.3", b"ST1/SE1/IM000001", b"ST1/SE1/a.IMA"]
    assert str(listing) == "images: 3 DICOM; passed over: files that are no images by their names (2 without suffix)"
    assert len(open_any(str(tmp_path / "ST1/SE1/IM000001"))) == 1
    (tmp_path / "a.png").write_bytes(b"x")  # beside others they are no images
    assert list_images(str(tmp_path)).paths == [b"a.png"]
