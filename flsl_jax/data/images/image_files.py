"""Image files opened for their size, or for pixels that are ids."""

import io
from pathlib import Path

from PIL import Image

from flsl_jax.data.images import arrays, dicom, tiff
from flsl_jax.data.images.decode import ORIENTATION_TAG, RGB, DecodeError, open_with_pillow
from flsl_jax.data.images.listing import open_file
from flsl_jax.errors import UserError, reason

# EXIF orientations that exchange width and height.
_TURNED = (5, 6, 7, 8)
_HEAD = 256


def open_image(path: Path, *, pixels: bool = False, exif: bool = False) -> Image.Image:
    """Opens an image file with Pillow; only its header is read, unless more is asked for. The file is closed again.

    Args:
        path: the file.
        pixels: whether to read the pixels.
        exif: whether to read the EXIF data, for which Pillow reads the pixels of some formats too.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with open_file(path) as file, open_with_pillow(file) as image:
            if pixels:
                image.load()
            if exif:
                image.getexif()
            return image
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise UserError(f"{path} cannot be read ({reason(error)}); repair or replace it") from error


def size_of(data: bytes, *, name: str) -> tuple[int, int]:
    """Width and height of an encoded image as the file has it, whatever its orientation.

    Raises:
        DecodeError: it is damaged, or of another format.
    """
    if arrays.is_array(data):
        height, width = arrays.values_of(data, name=name).shape[:2]
        return width, height
    if dicom.is_dicom(data):
        return dicom.size_of(data, name=name)
    page = tiff.read_page(data)
    if page is not None:
        return page.width, page.height
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise DecodeError(f"{name}: {reason(error)}") from error


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of the image in a file after its EXIF orientation is applied.

    Raises:
        UserError: the file cannot be read.
    """
    found = _size_beyond_pillow(path)
    if found is not None:
        return found
    image = open_image(path, exif=True)
    width, height = image.size
    try:
        turned = image.getexif().get(ORIENTATION_TAG, 1) in _TURNED
    except Exception:  # as in decode_image: without a readable tag, an image counts as upright
        turned = False
    return (height, width) if turned else (width, height)


def _size_beyond_pillow(path: Path) -> tuple[int, int] | None:
    """Upright width and height of an array, of DICOM, or of a TIFF with other bands than Pillow reads; None for others."""
    try:
        with open_file(path) as file:
            head = file.read(_HEAD)
            if arrays.is_array(head):
                height, width = arrays.values_of(head + file.read(), name=str(path)).shape[:2]
                return width, height
            if dicom.is_dicom(head):
                return dicom.size_of(head + file.read(), name=str(path))
            page = tiff.read_page(head + file.read()) if tiff.is_tiff(head) else None
    except (OSError, DecodeError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); repair or replace it") from error
    if page is None or not tiff.beyond_pillow(page, RGB):
        return None
    return (page.height, page.width) if page.orientation in _TURNED else (page.width, page.height)
