"""Decoding images to upright 8-bit RGB, and cutting from each the base crop that its views are made from."""

import dataclasses
import io
import math

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from flsl_jax.errors import first_line, one_line

try:
    import cykooz_resizer
except ImportError:  # there is no build for Linux on ARM; Pillow does the same work and takes several times as long
    cykooz_resizer = None

ORIENTATION_TAG = 0x0112
_EXIF_SEARCH_BYTES = 1 << 16
# What Pillow may take a file for: formats that it decodes itself. Of the others, EPS would start Ghostscript.
READ_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# The limit of Pillow's decompression bomb check: an image with more pixels is an error, with either decoder.
_MAX_PIXELS = 2 * 89_478_485
# Larger images are converted and resized in strips of so many pixels, so that no second copy of the whole is in memory.
_STRIP_PIXELS = 1 << 20


class DecodeError(Exception):
    """The bytes are not an image, or the image is damaged or unsupported. The message names the image and the reason.

    It is one line, whatever characters the name has.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclasses.dataclass(frozen=True)
class BaseCrop:
    """A base crop: `image` uint8 [S, S, 3]; its `box` (left, top, width, height) in decoded pixels; whether it is mirrored."""

    image: UInt8[np.ndarray, "S S 3"]
    box: tuple[int, int, int, int]
    flipped: bool


def decode_image(data: bytes, *, name: str, min_side: int = 0) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes one image to upright RGB.

    RGB and grey JPEG are decoded by libjpeg-turbo (simplejpeg), everything else, and whatever that decoder refuses, by Pillow.
    Both give the same pixels. The EXIF orientation is applied. Transparent pixels are composited on white. 16-bit grey is
    scaled to 8 bits by 255 / 65535 and rounded; of 16-bit colour, Pillow keeps the high byte. Colour profiles are ignored.

    Args:
        data: the encoded image: JPEG, PNG, WebP, BMP, TIFF or GIF. Other formats are refused, EPS for one, for which Pillow
            would start Ghostscript.
        name: what an error calls the image.
        min_side: if positive, a JPEG is halved (in the DCT), up to three times, for as long as its shorter side keeps at
            least so many pixels. With twice the size of the final picture, that picture changes by 0.2 to 0.5 grey levels on
            average, and by up to 1 if odd sides are rounded up.

    Returns:
        The image. Its size is the original's or, with `min_side`, a power of two smaller (rounded up).

    Raises:
        DecodeError: the data are not an image of these formats, or the image is truncated or damaged, has floating-point
            pixels, or has more than 178 megapixels by its header. Otherwise decoding takes at most 8 bytes a pixel and 40 MB.
    """
    if data[:2] == b"\xff\xd8":
        pixels = _decode_jpeg(data, min_side=min_side)
        if pixels is not None:
            return _upright(pixels, _exif_orientation(data))
    return _decode_any(data, name=name)


def _decode_jpeg(data: bytes, *, min_side: int) -> np.ndarray | None:
    """RGB pixels; None if Pillow must decide, because the image is CMYK, too large, damaged, or merely unusual."""
    try:
        rows, columns, color, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(rows), int(columns)
        if color in ("CMYK", "YCCK") or height * width > _MAX_PIXELS:
            return None
        factor = _reduction(min(height, width), min_side=min_side)
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=math.ceil(height / factor), min_width=math.ceil(width / factor)
        )
    except ValueError:
        return None


def _reduction(side: int, *, min_side: int) -> int:
    """The largest power of two, up to 8, that a side can be divided by and still keep `min_side` pixels."""
    factor = 1
    while min_side > 0 and factor < 8 and side >= 2 * factor * min_side:
        factor *= 2
    return factor


def _decode_any(data: bytes, *, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=READ_FORMATS) as image:
            image.load()
            # Read after load(): the TIFF reader rotates by itself and removes the tag.
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            pixels = _rgb(image, name=name)
    except DecodeError:
        raise
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise DecodeError(f"{name}: {_reason(error)}") from error
    return _upright(pixels, orientation)


def _reason(error: Exception) -> str:
    """What went wrong, in one line and without the memory addresses of Pillow's messages."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in a known format"
    return first_line(error)


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


def _rgb(image: Image.Image, *, name: str) -> np.ndarray:
    """Pixels of a loaded Pillow image of any mode, as uint8 RGB."""
    width, height = image.size
    rows = _STRIP_PIXELS // width
    if rows >= height:
        return _strip_rgb(image, name=name)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, max(rows, 1)):
        bottom = min(top + max(rows, 1), height)
        pixels[top:bottom] = _strip_rgb(image.crop((0, top, width, bottom)), name=name)
    return pixels


def _strip_rgb(image: Image.Image, *, name: str) -> np.ndarray:
    mode = image.mode
    if mode == "F":
        raise DecodeError(f"{name}: floating-point pixels have no known range; save it with 8 or 16 bits")
    if mode.startswith("I"):
        return _from_16_bit(np.asarray(image), name=name)
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        white = Image.new("RGBA", foreground.size, "white")
        image = Image.alpha_composite(white, foreground)
    return np.asarray(image.convert("RGB"))


def _from_16_bit(grey: np.ndarray, *, name: str) -> np.ndarray:
    if grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
        raise DecodeError(f"{name}: 32-bit pixels outside 0 … 65535; save it with 8 or 16 bits")
    scaled = ((grey.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(scaled[:, :, np.newaxis], 3, axis=2)


def base_crop(
    image: UInt8[np.ndarray, "H W 3"],
    *,
    rng: np.random.Generator,
    size: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    flip: bool,
) -> BaseCrop:
    """Cuts the crop in which all views of an image lie (docs/method.md, Views), as torchvision's RandomResizedCrop does.

    Args:
        image: uint8 RGB.
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
    pixels = _resized(image[top : top + crop_height, left : left + crop_width], size=size)
    return BaseCrop(
        image=pixels[:, ::-1] if flipped else pixels, box=(left, top, crop_width, crop_height), flipped=flipped
    )


def _resized(image: UInt8[np.ndarray, "H W 3"], *, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """`image` resized as by `Image.resize((size, size), BICUBIC)` of Pillow 13, up to rounding.

    The weights of the vectorised resizer have 16 bits instead of 22: about 3 of 1000 values differ by one grey level, and about
    1 of 100,000 by two. As in Pillow, the columns are resized and rounded first, unless the height shrinks by more than twice
    as many pixels as the width.
    """
    if cykooz_resizer is None:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BICUBIC))
    height, width = image.shape[:2]
    rows_first = height - size > 2 * max(width - size, 0)
    # A pass along one axis treats the lines along it by themselves, so that strips of a large image give the same pixels.
    if rows_first:
        columns = max(1, _STRIP_PIXELS // height)
        parts = [_scaled(image[:, left : left + columns], height=size) for left in range(0, width, columns)]
    else:
        rows = max(1, _STRIP_PIXELS // width)
        parts = [_scaled(image[top : top + rows], width=size) for top in range(0, height, rows)]
    between = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1 if rows_first else 0)
    return _scaled(between, height=size, width=size)


def _scaled(
    image: UInt8[np.ndarray, "H W 3"], *, height: int | None = None, width: int | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """`image` with another height or width; a side that is not given stays."""
    assert cykooz_resizer is not None, "the caller has asked"
    pixel = cykooz_resizer.PixelType.U8x3
    rows, columns = height or image.shape[0], width or image.shape[1]
    # The cut-out box is the source: with the resizer's own crop box, pixels around the box would have an influence.
    source = cykooz_resizer.ImageData(image.shape[1], image.shape[0], pixel, image.tobytes())
    result = cykooz_resizer.ImageData(columns, rows, pixel)
    # Catmull-Rom is Pillow's bicubic (a = −0.5); a convolution widens its support by the reduction.
    kernel = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)
    cykooz_resizer.Resizer().resize(source, result, cykooz_resizer.ResizeOptions(resize_alg=kernel))
    return np.frombuffer(result.get_buffer(), np.uint8).reshape(rows, columns, 3)


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
