"""Decoding images to upright 8-bit levels, and cutting from each the base crop that its views are made from."""

import dataclasses
import io
import math
from typing import BinaryIO

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, features

from flsl_jax.data.images import arrays, dicom, heif, png, tiff
from flsl_jax.data.images.levels import (
    RGB,
    STRIP_PIXELS,
    DecodeError,
    Decoding,
    adapted,
    on_white,
    to_levels,
    wrong_bands,
)
from flsl_jax.data.images.resize import resize_square
from flsl_jax.errors import first_line

__all__ = ["MAX_PIXELS", "RGB", "BaseCrop", "DecodeError", "Decoding", "base_crop", "decode_image", "pixels_of"]

ORIENTATION_TAG = 0x0112
_EXIF_SEARCH_BYTES = 1 << 16
# What Pillow may take a file for: formats that it decodes itself. Of the others, EPS would start Ghostscript.
_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
_READ_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", *_AVIF)
_HEAD_BYTES = 512
# The limit of Pillow's decompression bomb check: an image with more pixels is an error, with either decoder.
MAX_PIXELS = 2 * 89_478_485


@dataclasses.dataclass(frozen=True)
class BaseCrop:
    """A base crop: `image` uint8 [S, S, 3]; its `box` (left, top, width, height) in decoded pixels; whether it is mirrored."""

    image: UInt8[np.ndarray, "S S C"]
    box: tuple[int, int, int, int]
    flipped: bool


def open_with_pillow(file: BinaryIO | io.BytesIO) -> Image.Image:
    """Opens an image of a format that Pillow reads here; only its header is read.

    Raises:
        Exception: it is none, or damaged; Pillow's readers raise nearly every built-in exception.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if heif.is_heif(head):
        heif.register()
        return Image.open(file, formats=(heif.PILLOW_NAME,))
    return Image.open(file, formats=_READ_FORMATS)


def pixels_of(
    image: bytes | np.ndarray, *, name: str, decoding: Decoding = RGB, min_side: int = 0, page: int = 0
) -> UInt8[np.ndarray, "H W C"]:
    """The levels of a record's image, encoded or decoded; see `decode_image`."""
    if isinstance(image, np.ndarray):
        return adapted(image, decoding, name=name)
    return decode_image(image, name=name, decoding=decoding, min_side=min_side, page=page)


def decode_image(
    data: bytes, *, name: str, decoding: Decoding = RGB, min_side: int = 0, page: int = 0
) -> UInt8[np.ndarray, "H W C"]:
    """Decodes one image to upright levels.

    RGB and grey JPEG are decoded by libjpeg-turbo (simplejpeg), TIFF with more bands by tifffile, everything else, and whatever
    those decoders refuse, by Pillow. All give the same pixels, but for one channel of a JPEG in colour, whose own luma differs
    here and there by a level or two from that of its rounded red, green and blue. The EXIF orientation is applied. Colour
    profiles are ignored.

    Transparency is composited on white, unless so many channels are wanted as the image has bands with it. In a TIFF, a band is
    transparency if the file says so, and else a band like others. Values of more than 8 bits become levels by `to_levels`, but
    of 16-bit colour in PNG and TIFF, the high byte is taken where there is no window.

    Args:
        data: the encoded image: JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF or HEIC, or an array [H, W], [H, W, bands] or [pages,
            H, W, bands] as NumPy saves it, or DICOM. Other formats are refused, EPS for one, for which Pillow would start
            Ghostscript.
        name: what an error calls the image.
        decoding: which channels are wanted; RGB by default.
        min_side: if positive, a JPEG is halved (in the DCT), up to three times, for as long as its shorter side keeps at
            least so many pixels. With twice the size of the final picture, that picture changes by 0.2 to 0.5 grey levels on
            average, and by up to 1 if odd sides are rounded up.
        page: which image of a file that holds several, as `pages.page_numbers` counts them.

    Returns:
        The image. Its size is the original's or, with `min_side`, a power of two smaller (rounded up).

    Raises:
        DecodeError: the data are not an image of these formats, the image is truncated or damaged, has another number of bands
            than wanted, values without a known range, or more than 178 megapixels by its header. Otherwise decoding takes at
            most 8 bytes a pixel and 40 MB; with more than four bands, 3 times the bytes of all its values.
    """
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, name=name, decoding=decoding, min_side=min_side)
        if pixels is not None:
            return _upright(pixels, _exif_orientation(data))
    if arrays.is_array(data):
        return arrays.read(data, decoding, name=name, page=page)
    if dicom.is_dicom(data):
        return dicom.read(data, decoding, name=name, page=page)
    header = tiff.read_page(data, number=page)
    if header is not None and tiff.beyond_pillow(header, decoding):
        return _upright(tiff.read(data, header, decoding, name=name), header.orientation)
    return _decode_any(data, name=name, decoding=decoding, page=page)


def _decode_jpeg(data: bytes, *, name: str, decoding: Decoding, min_side: int) -> np.ndarray | None:
    """The levels; None if Pillow must decide, because the image is CMYK, too large, damaged, or merely unusual."""
    try:
        rows, columns, color, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(rows), int(columns)
        if color in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        if decoding.channels not in (1, 3):
            raise wrong_bands(1 if color == "Gray" else 3, decoding, name=name)
        factor = _reduction(min(height, width), min_side=min_side)
        return simplejpeg.decode_jpeg(
            data,
            "RGB" if decoding.channels == 3 else "GRAY",
            min_height=math.ceil(height / factor),
            min_width=math.ceil(width / factor),
        )
    except ValueError:
        return None


def _reduction(side: int, *, min_side: int) -> int:
    """The largest power of two, up to 8, that a side can be divided by and still keep `min_side` pixels."""
    factor = 1
    while min_side > 0 and factor < 8 and side >= 2 * factor * min_side:
        factor *= 2
    return factor


def _decode_any(data: bytes, *, name: str, decoding: Decoding, page: int) -> np.ndarray:
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            if page:
                image.seek(page)
            image.load()
            # Read after load(): the TIFF reader rotates by itself and removes the tag.
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            deep = png.deep_colour(data) if decoding.window is not None and png.has_16_bits(data) else None
            if deep is None:
                pixels = levels_of(image, decoding, name=name)
            else:
                pixels = _with_alpha(deep, decoding, name=name)
    except DecodeError:
        raise
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise DecodeError(f"{name}: {_reason(error, data)}") from error
    return _upright(pixels, orientation)


def _with_alpha(values: np.ndarray, decoding: Decoding, *, name: str) -> np.ndarray:
    """The channels of 16-bit colour [H, W, 3], or [H, W, 4] with transparency."""
    levels = to_levels(values[..., :3], decoding, name=name)
    if values.shape[-1] == 4:
        alpha = to_levels(values[..., 3], RGB, name=name)
        if decoding.channels == 4:
            return np.dstack([levels, alpha])
        levels = on_white(levels, alpha, premultiplied=False)
    return adapted(levels, decoding, name=name)


def _reason(error: Exception, data: bytes) -> str:
    """What went wrong, in one line and without the memory addresses of Pillow's messages."""
    if not isinstance(error, Image.UnidentifiedImageError):
        return first_line(error)
    if not data.strip(b"\0"):
        return f"the file holds nothing but {len(data):,} zeros" if data else "the file is empty"
    page = data[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
    return "not an image in a known format" + (", but a web page; download it again" if page else "")


def _exif_orientation(data: bytes) -> int:
    """The orientation of a JPEG, 1 to 8; 1 if there is no EXIF data or it is damaged."""
    if data.find(b"Exif\x00\x00", 0, _EXIF_SEARCH_BYTES) < 0:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # the pixels are good; without a readable tag they count as upright
        return 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation, as Pillow's ImageOps.exif_transpose does; unknown values count as upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def levels_of(image: Image.Image, decoding: Decoding, *, name: str) -> UInt8[np.ndarray, "H W C"]:
    """The channels of a loaded Pillow image of any mode, as `decode_image` has them, without its orientation.

    Raises:
        DecodeError: as `decode_image`.
    """
    width, height = image.size
    rows = STRIP_PIXELS // max(1, width)
    if rows >= height:
        return _strip_levels(image, decoding, name=name)
    pixels = np.empty((height, width, decoding.channels), np.uint8)
    for top in range(0, height, max(rows, 1)):
        bottom = min(top + max(rows, 1), height)
        pixels[top:bottom] = _strip_levels(image.crop((0, top, width, bottom)), decoding, name=name)
    return pixels


def _strip_levels(image: Image.Image, decoding: Decoding, *, name: str) -> np.ndarray:
    mode, channels = image.mode, decoding.channels
    if mode == "F" or mode.startswith("I"):
        return adapted(to_levels(np.asarray(image)[..., None], decoding, name=name), decoding, name=name)
    bands = {"LA": 2, "RGBA": 4, "RGBX": 4}.get(mode)
    if channels == bands:
        return np.asarray(image)
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        white = Image.new("RGBA", foreground.size, "white")
        image = Image.alpha_composite(white, foreground)
    if channels in (1, 3):
        converted = np.asarray(image.convert("RGB" if channels == 3 else "L"))
        return converted if channels == 3 else converted[..., None]
    raise wrong_bands(1 if mode in ("1", "L", "LA", "La") else 3, decoding, name=name)


def base_crop(
    image: UInt8[np.ndarray, "H W C"],
    *,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    flip: bool,
) -> BaseCrop:
    """Cuts the crop in which all views of an image lie (docs/method.md, Views), as torchvision's RandomResizedCrop does.

    Args:
        image: uint8, any number of channels.
        rng: the sample's own generator, the only source of random numbers here.
        size: height and width of the result in pixels.
        area: smallest and largest share of the image's area, in (0, 1].
        aspect: smallest and largest width / height; its logarithm is drawn uniformly.
        flip: whether to mirror the crop left to right with probability 1/2.

    Returns:
        The crop, resized with Pillow's antialiased bicubic filter; pixels outside the box have no influence.
    """
    height, width = image.shape[:2]
    left, top, crop_width, crop_height = _random_box(height, width, rng=rng, area=area, aspect=aspect)
    flipped = flip and bool(rng.random() < 0.5)
    pixels = resize_square(image[top : top + crop_height, left : left + crop_width], size=size)
    return BaseCrop(
        image=pixels[:, ::-1] if flipped else pixels, box=(left, top, crop_width, crop_height), flipped=flipped
    )


def _random_box(
    height: int, width: int, *, rng: np.random.Generator, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, width, height): the first of ten draws that fits, else the largest central box of an allowed aspect."""
    log_aspect = (math.log(aspect[0]), math.log(aspect[1]))
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(*log_aspect))
        crop_width, crop_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            return left, top, crop_width, crop_height
    ratio = min(max(width / height, aspect[0]), aspect[1])
    crop_width = min(width, max(1, round(height * ratio)))
    crop_height = min(height, max(1, round(width / ratio)))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height
