"""Objects and regions drawn over an image, in the colours of their classes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as rle

from flsl_jax.pictures.panels import OKABE_ITO

# How much of a region's colour lies over the image.
_WEIGHT = 0.45
# Pictures are enlarged by whole numbers up to this short side in pixels, so that words can be read.
_SHORTEST = 400
# Of a picture's width: a letter's height, unless another one is asked for, and the width of a line.
_LETTER, _LINE = 1 / 48, 1 / 210
_SMALLEST_LETTER = 11
# Around words, in pixels.
_MARGIN = 3
# Of the classes that are left when no colour is.
OTHERS = "#000000"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """An object in a picture.

    `box`: x, y, width and height in pixels of the image. `words`: beside it. `color`: hexadecimal. `mask`: bool [H, W];
    None: only its box is drawn. `dashed`: whether the box is, as for what is missing.
    """

    box: Sequence[float | int]
    words: str
    color: str
    mask: np.ndarray | None = None
    dashed: bool = False


def class_color(number: int) -> str:
    """The colour of a class by its number; there are seven, which repeat."""
    return OKABE_ITO[number % len(OKABE_ITO)]


def image_colors(counts: Mapping[int, int], *, classes: int) -> dict[int, str]:
    """A colour for each class of one picture, the most frequent first; none is used twice but `OTHERS`.

    Args:
        counts: how much there is of each class, by its number.
        classes: of the data set; where there are no more of them than colours, a class has the same one in all pictures.
    """
    ordered = sorted(counts, key=lambda number: (-counts[number], number))
    if classes <= len(OKABE_ITO):
        return {number: class_color(number) for number in ordered}
    return {number: OKABE_ITO[place] if place < len(OKABE_ITO) else OTHERS for place, number in enumerate(ordered)}


def legend_of(colors: Mapping[int, str], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """Colours and what they mean."""
    own = [(color, names[number]) for number, color in colors.items() if color != OTHERS]
    return [*own, (OTHERS, "other classes")] if OTHERS in colors.values() else own


def detection_mark(found: Mapping[str, Any], names: Mapping[int, str], *, color: str = "") -> Mark:
    """How a detection in COCO's results format is drawn, with its class by the category's id and its score.

    Args:
        found: the detection.
        names: of the classes, by the category's id.
        color: hexadecimal; by default that of the class.
    """
    return Mark(
        box=found["bbox"],
        words=f"{names[found['category_id']]} {found['score']:.2f}",
        color=color or class_color(found["category_id"]),
        mask=rle.decode(found["segmentation"]) > 0 if "segmentation" in found else None,
    )


def draw_objects(
    image: np.ndarray,
    marks: Sequence[Mark],
    *,
    longest: int = 0,
    cut: tuple[int, int, int, int] | None = None,
    letter: float = _LETTER,
) -> Image.Image:
    """The image with objects, the first of them on top; a small one is several times as large.

    Words that would cover those of an object before it are left out.

    Args:
        image: uint8 [H, W, 3].
        marks: the objects.
        longest: side in pixels that a larger picture is reduced to; 0: it stays as large as the image.
        cut: x and y of the first pixel, and of the one behind the last, of the part that is shown; None: the whole image.
        letter: height of letters, as a share of the picture's width.
    """
    x0, y0, x1, y1 = cut or (0, 0, image.shape[1], image.shape[0])
    regions = [(mark.mask, mark.color) for mark in reversed(marks) if mark.mask is not None]
    picture = scaled(_painted(image, regions)[y0:y1, x0:x1], longest=longest)
    scale = picture.width / (x1 - x0)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(picture.width * _LINE))
    placed = [(mark, _corners(mark.box, offset=(x0, y0), scale=scale)) for mark in reversed(marks)]
    for mark, corners in placed:
        if mark.dashed:
            _draw_dashed(draw, corners, color=mark.color, width=line)
        else:
            draw.rectangle(corners, outline=mark.color, width=line)
    font = _font(max(_SMALLEST_LETTER, round(picture.width * letter)))
    written: list[tuple[float, ...]] = []
    for mark, corners in reversed(placed):
        place = _place_of_words(mark, corners, size=picture.size, font=font)
        if mark.words and not any(_touch(place, other) for other in written):
            _write_words(draw, mark, place, font=font)
            written.append(place)
    return picture


def draw_regions(image: np.ndarray, labels: np.ndarray, colors: Mapping[int, str], *, longest: int = 0) -> Image.Image:
    """The image, uint8 [H, W, 3], with every pixel in the colour of its label, int [H, W]; labels without one stay clear."""
    regions = [(labels == label, color) for label, color in colors.items()]
    return scaled(_painted(image, regions), longest=longest)


def scaled(image: np.ndarray, *, longest: int = 0) -> Image.Image:
    """uint8 [H, W, 3] as a picture; a small one several times as large, one beyond `longest` pixels reduced to that."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    factor = max(1, _SHORTEST // min(picture.size))
    while longest and factor > 1 and factor * max(picture.size) > longest:
        factor -= 1
    if longest and max(picture.size) > longest:
        reduced = longest / max(picture.size)
        size = (max(1, round(picture.width * reduced)), max(1, round(picture.height * reduced)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def save_picture(picture: Image.Image, path: Path) -> Path:
    """Writes a JPEG in which letters and lines stay clear; returns its path."""
    picture.save(path, quality=88, subsampling=0)
    return path


def _painted(image: np.ndarray, regions: Sequence[tuple[np.ndarray, str]]) -> np.ndarray:
    painted = image.astype(np.float32)
    for mask, color in regions:
        painted[mask] = (1 - _WEIGHT) * painted[mask] + _WEIGHT * np.array(_levels(color))
    return painted.round().astype(np.uint8)


def _levels(color: str) -> tuple[int, ...]:
    return tuple(int(color[place : place + 2], 16) for place in (1, 3, 5))


def _corners(box: Sequence[float | int], *, offset: tuple[int, int], scale: float) -> tuple[float, float, float, float]:
    x, y, width, height = box
    left, top = (x - offset[0]) * scale, (y - offset[1]) * scale
    return left, top, left + max(1.0, width * scale), top + max(1.0, height * scale)


def _draw_dashed(draw: ImageDraw.ImageDraw, corners: tuple[float, ...], *, color: str, width: int) -> None:
    """A dashed box on a black line, so that it can be seen on any ground."""
    left, top, right, bottom = corners
    for start, end in (
        ((left, top), (right, top)),
        ((right, top), (right, bottom)),
        ((right, bottom), (left, bottom)),
        ((left, bottom), (left, top)),
    ):
        draw.line([start, end], fill="black", width=width)
        (ax, ay), (bx, by) = start, end
        pieces = max(1, round((abs(bx - ax) + abs(by - ay)) / (6 * width)))
        for piece in range(pieces):
            first, last = piece / pieces, (piece + 0.55) / pieces
            dash = [
                (ax + (bx - ax) * first, ay + (by - ay) * first),
                (ax + (bx - ax) * last, ay + (by - ay) * last),
            ]
            draw.line(dash, fill=color, width=width)


def _place_of_words(
    mark: Mark, corners: tuple[float, ...], *, size: tuple[int, int], font: ImageFont.FreeTypeFont
) -> tuple[float, ...]:
    """Above the box, or in it where there is no room, and never outside the picture: left, top, right and bottom."""
    left, top, right, bottom = font.getbbox(mark.words)
    wide, high = right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN
    y = corners[1] - high if corners[1] >= high else corners[1]
    if mark.dashed:  # at the other end of the box, where the words of what overlaps it are not
        y = corners[3] if corners[3] + high <= size[1] else corners[3] - high
    x = min(max(0.0, corners[0]), max(0.0, size[0] - wide))
    y = min(max(0.0, y), size[1] - high)
    return x, y, x + wide, y + high


def _touch(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]


def _write_words(
    draw: ImageDraw.ImageDraw, mark: Mark, place: tuple[float, ...], *, font: ImageFont.FreeTypeFont
) -> None:
    """On a ground of the mark's colour, in black or white."""
    draw.rectangle(place, fill=mark.color)
    dark = sum(weight * level for weight, level in zip((0.3, 0.59, 0.11), _levels(mark.color))) < 140
    left, top, *_ = font.getbbox(mark.words)
    corner = (place[0] + _MARGIN - left, place[1] + _MARGIN - top)
    draw.text(corner, mark.words, fill="white" if dark else "black", font=font)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has the letters of most alphabets."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
