"""The images of pictures: a file, a folder or the embedded scenes, at any size that is a multiple of the patch."""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, pixels_of
from flsl_jax.data.images.resize import resize
from flsl_jax.data.records import Source, path_of
from flsl_jax.data.sources.kinds import kind_of
from flsl_jax.data.sources.lists import OneImage
from flsl_jax.data.sources.opening import FirstRecords, open_any
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.sources.survey import say_what_is_lost
from flsl_jax.errors import UserError
from flsl_jax.typing import UInt8

log = logging.getLogger(__name__)

SCENES = "scenes"
# The query places if a person names none, as shares of width and height.
_DEFAULT_PLACES = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75))


@dataclasses.dataclass(frozen=True)
class ShownImage:
    """An image: its `pixels` as the network sees them, a `name` that suits file names, and the size of its file in pixels."""

    name: str
    pixels: UInt8[np.ndarray, "H W C"]
    file_width: int
    file_height: int

    @property
    def colours(self) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels as they are drawn; see `as_colours`."""
        return as_colours(self.pixels)

    def same_as(self, other: "ShownImage") -> bool:
        """Whether the pixels are the same."""
        return np.array_equal(self.pixels, other.pixels)


@dataclasses.dataclass(frozen=True)
class Query:
    """A query place, in pixels of the image file, as a person gives it, and in pixels of the shown image."""

    file_x: float
    file_y: float
    x: float
    y: float

    @property
    def label(self) -> str:
        """`(x, y)` in pixels of the file."""
        return f"({self.file_x:g}, {self.file_y:g})"

    def patch(self, patch_size: int) -> tuple[int, int]:
        """Row and column of the patch that it lies in."""
        return int(self.y // patch_size), int(self.x // patch_size)

    def centred(self, patch_size: int) -> "Query":
        """The same query with its place in the shown image at the centre of its patch."""
        y, x = (patch_size * (number + 0.5) - 0.5 for number in self.patch(patch_size))
        return dataclasses.replace(self, x=x, y=y)


def as_colours(pixels: UInt8[np.ndarray, "*b H W C"]) -> UInt8[np.ndarray, "*b H W 3"]:
    """Images of any bands to look at: of more than three the first three, of two the first in red and the second in green and
    blue, and one as grey."""
    return pixels[..., np.minimum(np.arange(3), pixels.shape[-1] - 1)]


def read_images(
    spec: str,
    *,
    limit: int,
    size: int,
    multiple: int,
    flag: str = "--images",
    decoding: Decoding = RGB,
    config: SourceConfig | None = None,
) -> list[ShownImage]:
    """The first images of a file, a folder at any depth, a list, or the embedded scenes (held-out split), resized.

    The shorter side becomes `size` and the ratio is kept; both sides are rounded to the nearest multiple of `multiple`.

    Args:
        spec: a path, "scenes" or "scenes:KIND" (hues or textures); write "./scenes" for a folder of that name.
        limit: number of images at most. One that cannot be decoded is left out with a warning.
        size: of the shorter side, in pixels.
        multiple: what both sides are multiples of, such as the patch size.
        flag: the flag that error messages name.
        decoding: how files are read for the networks.
        config: whose other keys are used; None: the defaults.

    Raises:
        UserError: the path does not exist, there is no such kind of scenes, or no image can be decoded.
    """
    images, problem = [], ""
    drawn_size = _rounded(size, multiple)
    for name, read in _records(spec, limit=limit, size=drawn_size, flag=flag, decoding=decoding, config=config):
        try:
            pixels = pixels_of(read(), name=name, decoding=decoding)
        except (DecodeError, OSError) as error:
            problem = str(error)
            log.warning("left out: %s", error)
            continue
        images.append(_shown(name, pixels, size=size, multiple=multiple))
    if not images:
        raise UserError(f"{flag}={spec}: no image can be read ({problem}); name an image file or a folder of images")
    return _with_unique_names(images)


def parse_place(text: str) -> tuple[float, float]:
    """The two numbers of `x,y`.

    Raises:
        UserError: the text is something else.
    """
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--query={text}: expected x,y in pixels of the image, such as --query=120,80") from None
    return x, y


def queries(image: ShownImage, places: tuple[tuple[float, float], ...]) -> list[Query]:
    """The query places of an image.

    Args:
        image: which the places lie in.
        places: x and y in pixels of the image file; none: the centre and two other places.

    Raises:
        UserError: a place lies outside the image.
    """
    width, height = image.file_width, image.file_height
    for x, y in places:
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"--query={x:g},{y:g} lies outside {image.name}, which is {width}×{height} pixels; give x from 0 to "
                f"{width - 1} and y from 0 to {height - 1}"
            )
    asked = places or tuple((float(int(x * width)), float(int(y * height))) for x, y in _DEFAULT_PLACES)
    shown_height, shown_width = image.pixels.shape[:2]
    return [Query(x, y, (x + 0.5) * shown_width / width, (y + 0.5) * shown_height / height) for x, y in asked]


def file_stem(name: str) -> str:
    """The name with underscores for characters that do not suit file names; never empty."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "unnamed"


def _records(
    spec: str, *, limit: int, size: int, flag: str, decoding: Decoding, config: SourceConfig | None
) -> Iterator[tuple[str, Callable[[], bytes | np.ndarray]]]:
    """The names of images, each with a function that reads its encoded bytes or draws its pixels."""
    name, _, kind = spec.partition(":")
    if name == SCENES:
        scenes = Scenes(count=limit, size=size, split="test", kind=kind or "hues")
        yield from ((f"scene_{index}", lambda index=index: scenes[index].image) for index in range(limit))
        return
    path = Path(spec)
    if path.is_file() and kind_of(spec, other="image") == "image":  # whatever its name is
        source: Source = OneImage(path)
    elif not path.exists() and "," not in spec:
        raise UserError(f'{flag}={spec} does not exist; name an image file, a folder of images, or "{SCENES}"')
    else:
        source = open_any(spec, config=config)
    say_what_is_lost(FirstRecords(source, limit=limit), decoding)
    for index in range(min(limit, len(source))):
        yield path_of(source, index) or f"record_{index}", lambda index=index: source[index].image


def _shown(name: str, pixels: UInt8[np.ndarray, "H W C"], *, size: int, multiple: int) -> ShownImage:
    height, width = pixels.shape[:2]
    scale = size / min(height, width)
    target = (_rounded(width * scale, multiple), _rounded(height * scale, multiple))
    if target != (width, height):
        pixels = resize(pixels, height=target[1], width=target[0])
    stem = file_stem(str(Path(name).with_suffix("")))
    return ShownImage(name=stem, pixels=pixels, file_width=width, file_height=height)


def _rounded(side: int | float, multiple: int) -> int:
    return max(1, round(side / multiple)) * multiple


def _with_unique_names(images: list[ShownImage]) -> list[ShownImage]:
    """The images with numbers after names that occur more than once (`a.jpg` beside `a.png`)."""
    counts, seen = Counter(image.name for image in images), Counter()
    unique = []
    for image in images:
        seen[image.name] += 1
        name = image.name if counts[image.name] == 1 else f"{image.name}_{seen[image.name]}"
        unique.append(dataclasses.replace(image, name=name))
    return unique
