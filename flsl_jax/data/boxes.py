"""Bounding boxes with labels: readers of COCO JSON and VOC / ILSVRC XML, and boxes through a resize and crop."""

import dataclasses
import json
import logging
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8
from PIL import Image

from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# Annotations may be a pixel off by their rounding; further outside, they belong to another size of the image.
_OUTSIDE_PIXELS = 1.5


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of one image: `xyxy` float32 [M, 4] in pixels of the upright original image, `labels` int64 [M]."""

    xyxy: Float[np.ndarray, "M 4"]
    labels: Int64[np.ndarray, " M"]

    def areas(self) -> Float[np.ndarray, " M"]:
        """Width times height of each, in square pixels."""
        return (self.xyxy[:, 2] - self.xyxy[:, 0]) * (self.xyxy[:, 3] - self.xyxy[:, 1])

    def largest(self) -> int:
        """Index of the box of the largest area, the first of equals.

        Raises:
            ValueError: there is no box.
        """
        return int(np.argmax(self.areas()))

    def require_inside(self, *, width: int, height: int, name: str) -> None:
        """Refuses boxes that reach beyond an image of this width and height in pixels, other than by rounding.

        Raises:
            UserError: one does; `name` is what the message calls the image.
        """
        right, bottom = self.xyxy[:, 2:].max(axis=0)
        if right > width + _OUTSIDE_PIXELS or bottom > height + _OUTSIDE_PIXELS:
            raise UserError(
                f"{name}: a box reaches to ({right:g}, {bottom:g}) in an image of {width}×{height} pixels; give the "
                "annotations of these very images, or the images at their original size"
            )


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Boxes by file name, and the names of their dense labels."""

    boxes: dict[str, Boxes]
    class_names: tuple[str, ...]


def read_boxes(path: Path) -> Annotations:
    """Boxes from a COCO JSON file, a VOC / ILSVRC XML file, or a folder of such XML files.

    Raises:
        UserError: nothing is there, or it cannot be read as what its suffix says.
    """
    if path.is_dir() or path.suffix.lower() == ".xml":
        return read_voc(path)
    if path.suffix.lower() == ".json":
        return read_coco(path)
    raise UserError(f"boxes {path}: expected a COCO .json file, or a VOC .xml file or folder of them")


def read_coco(path: Path) -> Annotations:
    """Boxes of a COCO instances file; crowds are left out, category ids become 0, 1, … in the order of their ids.

    Keys are the images' `file_name`; an image without annotations has no boxes. A box that reaches beyond its image is
    clipped. A box without width or height is left out, and a warning counts them: COCO 2017 itself has such boxes.

    Raises:
        UserError: not a COCO instances file, an annotation of an image or category that the file does not list, or a
            box that is not [x, y, width, height] with some part inside its image.
    """
    try:
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        categories = sorted(content["categories"], key=lambda category: category["id"])
        class_names = tuple(str(category["name"]) for category in categories)
        found: dict[str, list[tuple[list[float], int]]] = {str(image["file_name"]): [] for image in images.values()}
        annotations = [item for item in content["annotations"] if not item.get("iscrowd")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"boxes {path}: not a COCO instances file ({type(error).__name__}: {error})") from error
    labels = {category["id"]: label for label, category in enumerate(categories)}
    empty = 0
    for item in annotations:
        where = f"boxes {path}: annotation {item.get('id')}"
        for key, known in (("image_id", images), ("category_id", labels)):
            if item.get(key) not in known:
                raise UserError(f"{where} has {key} {item.get(key)!r}, which the file does not list; add or remove it")
        x, y, width, height = _numbers(item.get("bbox"), where=where)
        image = images[item["image_id"]]
        size = _numbers([image.get("width") or 0, image.get("height") or 0], count=2, where=f"boxes {path}: image size")
        box = _clipped((x, y, x + width, y + height), size=size, where=where)
        if box is None:
            empty += 1
        else:
            found[str(image["file_name"])].append((box, labels[item["category_id"]]))
    _warn_of_empty(path, empty)
    return Annotations(boxes={name: _boxes(items) for name, items in found.items()}, class_names=class_names)


def read_voc(path: Path) -> Annotations:
    """Boxes of VOC or ILSVRC CLS-LOC XML files, at any depth; a pixel range, 1-based, becomes [xmin - 1, xmax).

    Classes are the sorted names that occur, so two folders may number the same class differently: go by `class_names`.
    Keys are file names without suffix, which both data sets share between image and annotation. A box that reaches
    beyond its image is clipped; where the file gives no size, only at 0.

    Raises:
        UserError: no XML file there, one that is not of this format, two of one name, or a box that has no part inside
            its image.
    """
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"boxes {path}: no .xml file in this folder; name the folder of the annotations")
    found: dict[str, list[tuple[list[float], str]]] = {}
    empty = 0
    for file in files:
        if file.stem in found:
            raise UserError(f"boxes {path}: two files are named {file.name}; an image is found by this name alone")
        read = _read_xml(file)
        found[file.stem] = [(box, name) for box, name in read if box is not None]
        empty += len(read) - len(found[file.stem])
    _warn_of_empty(path, empty)
    names = sorted({name for items in found.values() for _, name in items})
    labels = {name: label for label, name in enumerate(names)}
    return Annotations(
        boxes={key: _boxes([(box, labels[name]) for box, name in items]) for key, items in found.items()},
        class_names=tuple(names),
    )


def _read_xml(file: Path) -> list[tuple[list[float] | None, str]]:
    """(Box or None where it has no area, class name) of every object of one file."""
    where = f"boxes {file}"
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{where}: not a VOC annotation ({type(error).__name__}: {error})") from error
    if root.tag != "annotation":
        raise UserError(f"{where}: not a VOC annotation (its root is <{root.tag}>, expected <annotation>)")
    size = _numbers([root.findtext(f"size/{side}", "0") for side in ("width", "height")], count=2, where=where)
    read = []
    for item in root.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{where}: an <object> has no <name>; add it")
        left, top, right, bottom = _numbers(
            [item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")], where=f"{where}, {name}"
        )
        read.append((_clipped((left - 1, top - 1, right, bottom), size=size, where=f"{where}, {name}"), name))
    return read


@dataclasses.dataclass(frozen=True)
class ResizeCrop:
    """The short side resized to `size` pixels (Pillow's bicubic, antialiased), then the central square.

    The same geometry moves image, boxes and mask, so that they cannot disagree. The long side is rounded to whole pixels.
    """

    size: int

    def image(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The transformed image."""
        (width, height), (left, top) = self._geometry(image.shape[1], image.shape[0])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def mask(self, mask: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, "s s"]:
        """Labels at the same place: of every pixel of the result, the label of the original's pixel under its centre."""
        (width, height), (left, top) = self._geometry(mask.shape[1], mask.shape[0])
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def boxes(self, boxes: Boxes, *, width: int, height: int) -> Boxes:
        """Boxes of an image of this width and height in pixels of the result; those wholly outside are left out."""
        (new_width, new_height), (left, top) = self._geometry(width, height)
        scale = np.array([new_width / width, new_height / height] * 2)
        moved = np.clip(boxes.xyxy * scale - np.array([left, top] * 2), 0, self.size).astype(np.float32)
        inside = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        return Boxes(xyxy=moved[inside], labels=boxes.labels[inside])

    def _geometry(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        short = min(width, height)
        resized = (round(width * self.size / short), round(height * self.size / short))
        return resized, ((resized[0] - self.size) // 2, (resized[1] - self.size) // 2)


def _boxes(items: list[tuple[list[float], int]]) -> Boxes:
    corners = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    return Boxes(xyxy=corners, labels=np.array([label for _, label in items], np.int64))


def _numbers(values: Any, *, count: int = 4, where: str) -> list[float]:
    """The values as finite numbers."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: {values!r} is not {count} finite numbers; mend or remove it")
    return numbers


def _clipped(box: tuple[float, float, float, float], *, size: list[float], where: str) -> list[float] | None:
    """The part inside an image of this width and height (0: unknown); None for a box without width or height."""
    x0, y0, x1, y1 = box
    right, bottom = (side or math.inf for side in size)
    if x1 < x0 or y1 < y0 or x0 >= right or y0 >= bottom or x1 <= 0 or y1 <= 0:
        raise UserError(
            f"{where}: box {[round(value, 1) for value in box]} (x0, y0, x1, y1) has no part inside its "
            f"{right:g}×{bottom:g} image; mend or remove it"
        )
    return None if x1 == x0 or y1 == y0 else [max(x0, 0.0), max(y0, 0.0), min(x1, right), min(y1, bottom)]


def _warn_of_empty(path: Path, count: int) -> None:
    if count:
        log.warning("boxes %s: left out %d without width or height", path, count)
