"""A look at a sample of a data set: which files have more than 8 bits and which values they use, and which have more pages."""

import dataclasses
import io
import logging
import os

import numpy as np

from flsl_jax.data.images import arrays, dicom, png, tiff, tiff_page
from flsl_jax.data.images.decode import open_with_pillow, pixels_of
from flsl_jax.data.images.levels import DecodeError, Decoding
from flsl_jax.data.records import Source, name_of, path_of
from flsl_jax.data.sources.kinds import VIDEO_SUFFIXES
from flsl_jax.data.sources.pages import PLAIN, page_numbers
from flsl_jax.errors import UserError, one_line

log = logging.getLogger(__name__)

# Records that are looked at, at even distances in the data set's order.
SAMPLE = 64
# Values of a file that are kept, at even distances.
_KEPT = 1 << 16
# From the values of the sample: so large a share of them is darker than black or brighter than white.
_OUTSIDE = 0.001
# Where the brightest values of half of the files are below this share of 0 … 65535, images look black with 8 bits.
DARK = 0.25
_LARGEST = 65535


@dataclasses.dataclass(frozen=True)
class DeepFile:
    """A file with more than 8 bits: its `name`, and a sample of the values of all its bands."""

    name: str
    values: np.ndarray

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.values.max())


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a sample of a data set shows: the number of records `seen`, the `deep` files among them, and the number of `pages`
    of those that have several, by name."""

    seen: int
    deep: tuple[DeepFile, ...]
    pages: dict[str, int]

    def window(self) -> tuple[float, float] | None:
        """The values between which all but 0.1 % at each end lie, outwards to whole numbers; None without deep files, or where
        they hold one value alone."""
        if not self.deep:
            return None
        values = np.concatenate([file.values for file in self.deep])
        low, high = (float(value) for value in np.quantile(values, (_OUTSIDE, 1 - _OUTSIDE)))
        if (values == np.floor(values)).all():
            low, high = float(np.floor(low)), float(np.ceil(high))
        return (low, high) if low < high else None

    def dark(self) -> str:
        """A line that says so where files with 16 bits use so little of the range that they are nearly black; else empty."""
        whole = [file for file in self.deep if file.values.dtype.kind in "iu"]
        if not whole or float(np.median([file.high for file in whole])) >= DARK * _LARGEST:
            return ""
        darkest = min(whole, key=lambda file: file.high)
        low, high = min(file.low for file in whole), max(file.high for file in whole)
        return (
            f"files with 16 bits have values from {low:,.0f} to {high:,.0f} of 0 … 65,535 ({len(whole)} of {self.seen} files "
            f"looked at; the darkest is {darkest.name}, up to {darkest.high:,.0f}): with 8 bits, which networks see, they are "
            "nearly black"
        )

    def paged(self) -> str:
        """A line that counts files with several pages; empty if there is none."""
        if not self.pages:
            return ""
        name, most = max(self.pages.items(), key=lambda item: item[1])
        return f"{len(self.pages)} of {self.seen} files looked at have several pages, such as {name} with {most}"


def survey(source: Source, *, sample: int = SAMPLE) -> Survey:
    """Looks at records at even distances. What cannot be read is passed over; training names it.

    The same data set gives the same result.
    """
    numbers = _sampled(source, sample)
    deep, pages = [], {}
    for number in numbers:
        path = path_of(source, number)
        if path is not None and _is_plain(path):
            continue
        try:
            image, count = _first_page(source, number)
            values = deep_values(image) if isinstance(image, bytes) else None
        except (DecodeError, OSError):
            continue
        name = one_line(path if path is not None else name_of(source, number))
        if values is not None and values.size:
            deep.append(DeepFile(name=name, values=values))
        if count > 1:
            pages[name] = count
    return Survey(seen=len(numbers), deep=tuple(deep), pages=pages)


def _first_page(source: Source, number: int) -> tuple[bytes | np.ndarray, int]:
    """A record's image, and how many pages its file has; of a large TIFF the first page alone is read."""
    known = getattr(source, "file", None)
    file = None if known is None else known(number)
    numbers = None if file is None else tiff_page.page_numbers(file)
    alone = None if file is None or numbers is None else tiff_page.read_one(file, number=0)
    if alone is not None and numbers is not None:
        return alone, len(numbers)
    image = source[number].image
    return image, len(page_numbers(image)) if isinstance(image, bytes) else 1


def say_what_is_lost(
    source: Source,
    decoding: Decoding,
    *,
    window: str = "train with data.window, or stretch their values first",
    pages: str = "the first of each is shown",
) -> None:
    """Warns of 16-bit files that are nearly black without a window, and of files whose first page alone is read.

    Args:
        source: of which a sample is looked at.
        decoding: as its images are read.
        window: what to do about dark files; empty: nothing is said of them.
        pages: what happens to pages; empty: nothing is said of them.
    """
    found = survey(source)
    if found.dark() and not decoding.window and window:
        log.warning("%s; %s", found.dark(), window)
    if found.pages and pages:
        log.warning("%s: %s", found.paged(), pages)


def check_readable(source: Source, decoding: Decoding, *, sample: int = SAMPLE) -> None:
    """Refuses images of which none can be read, such as those with other bands than the network's. One that can is enough.

    Args:
        source: the data set.
        decoding: as its images will be read.
        sample: records to try at most, at even distances.

    Raises:
        UserError: none of them can be read; has the reason of the first.
    """
    numbers, problem = _sampled(source, sample), ""
    for number in numbers:
        try:
            record = source[number]
            pixels_of(record.image, name=record.name, decoding=decoding, min_side=1, page=record.page)
            return
        except (DecodeError, OSError) as error:
            problem = problem or str(error)
    looked_at = (
        f"none of {len(numbers)} images looked at" if len(numbers) < len(source) else f"no image of {len(source)}"
    )
    raise UserError(f"{source.name}: {looked_at} can be read; the first: {problem}")


def _sampled(source: Source, sample: int) -> list[int]:
    """Numbers of records at even distances; the first and the last are among them."""
    return np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)).tolist()


def _is_plain(path: str) -> bool:
    """Whether a record has 8 bits and one page by its path: by its suffix, or because it is a frame of a video."""
    folder, name = os.path.split(path.lower())
    return name.endswith(PLAIN) or folder.endswith(VIDEO_SUFFIXES)


def deep_values(data: bytes) -> np.ndarray | None:
    """A sample of the finite values of an image with more than 8 bits, without transparency; None for others.

    Raises:
        DecodeError: the image is damaged.
    """
    values = _values(data)
    if values is None or values.dtype.itemsize == 1:
        return None
    bands = values.shape[-1] if values.ndim == 3 else 1
    pixels = values.reshape(-1, bands)
    flat = pixels[:: max(1, values.size // _KEPT)].reshape(-1)
    return flat[np.isfinite(flat)] if flat.dtype.kind == "f" else flat.copy()  # a view would keep the whole image


def _values(data: bytes) -> np.ndarray | None:
    if arrays.is_array(data):
        return arrays.values_of(data, name="image")
    if dicom.is_dicom(data):
        return dicom.values_of(data, name="image")
    page = tiff.read_page(data)
    if not (png.has_16_bits(data) or (page is not None and page.bits > 8)):
        return None
    try:
        if page is not None and page.samples > 1:
            values = tiff.values_of(data, page, name="image")
            return values if page.alpha is None else np.delete(values, page.alpha, axis=-1)
        colour = None if page is not None else png.deep_colour(data)
        if colour is not None:
            return colour[..., :3]
        with open_with_pillow(io.BytesIO(data)) as image:
            return np.asarray(image)
    except DecodeError:
        raise
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise DecodeError(f"image: {error}") from error
