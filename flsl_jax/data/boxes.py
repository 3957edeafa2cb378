"""Bounding boxes with labels: reading COCO JSON and VOC / ILSVRC XML, and moving boxes with a resized and cropped image."""

import dataclasses
import logging
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64, UInt8
from PIL import Image

from flsl_jax.data.annotation_files import load_json
from flsl_jax.data.images.resize import resize
from flsl_jax.errors import UserError, first_line

log = logging.getLogger(__name__)

# Annotations may be a pixel off by their rounding; further outside, they belong to another size of the image.
_OUTSIDE_PIXELS = 1.5


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The M boxes of one image.

    `xyxy`: float32 [M, 4], (x0, y0, x1, y1) in pixels of the upright original image. `labels`: int64 [M].
    """

    xyxy: Float[np.ndarray, "M 4"]
    labels: Int64[np.ndarray, " M"]

    def areas(self) -> Float[np.ndarray, " M"]:
        """The area of each box in square pixels."""
        return (self.xyxy[:, 2] - self.xyxy[:, 0]) * (self.xyxy[:, 3] - self.xyxy[:, 1])

    def largest(self) -> int:
        """Index of the box with the largest area; of equal ones, the first.

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
    """Boxes by file name; `class_names[label]` is the name of a box's label.

    Left out are `crowds`, areas with many objects, and `empty` boxes, which have no width or height.
    """

    boxes: dict[str, Boxes]
    class_names: tuple[str, ...]
    crowds: int = 0
    empty: int = 0


def read_boxes(path: Path) -> Annotations:
    """Reads boxes from a COCO JSON file, a VOC / ILSVRC XML file, or a folder of such XML files.

    Raises:
        UserError: the file or folder does not exist, or its content does not fit its suffix.
    """
    if path.is_dir() or path.suffix.lower() == ".xml":
        return read_voc(path)
    if path.suffix.lower() == ".json":
        return read_coco(path)
    raise UserError(f"boxes {path}: expected a COCO .json file, or a VOC .xml file or folder of them")


def read_coco(path: Path) -> Annotations:
    """Reads the boxes of a COCO instances file, without crowds; labels are 0, 1, … in the order of the category ids.

    Keys are the images' `file_name`; an image without annotations has an entry without boxes. A box that reaches beyond its
    image is clipped; an image whose width or height is missing, 0 or below 0 clips nothing there. Boxes without width or
    height are left out, and a warning counts them; COCO 2017 itself has such boxes.

    Raises:
        UserError: the file is not a COCO instances file, an annotation names an image or a category that the file does not
            list, or a box is not [x, y, width, height] with some part inside its image.
    """
    try:
        content = load_json(path)
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
            if isinstance(item.get(key), list | dict) or item.get(key) not in known:
                raise UserError(
                    f"{where} has {key} {item.get(key)!r:.80}, which the file does not list; add or remove it"
                )
        x, y, width, height = _numbers(item.get("bbox"), where=where)
        image = images[item["image_id"]]
        size = _size([image.get("width"), image.get("height")], where=f"boxes {path}: size of {image['file_name']}")
        box = _clipped((x, y, x + width, y + height), size=size, where=where)
        if box is None:
            empty += 1
        else:
            found[str(image["file_name"])].append((box, labels[item["category_id"]]))
    _warn_of_empty(path, empty)
    return Annotations(
        boxes={name: _boxes(items) for name, items in found.items()},
        class_names=class_names,
        crowds=len(content["annotations"]) - len(annotations),
        empty=empty,
    )


def read_voc(path: Path) -> Annotations:
    """Reads the boxes of VOC or ILSVRC CLS-LOC XML files, at any depth; the 1-based pixel range becomes [xmin - 1, xmax).

    Classes are the names that occur, sorted. Two folders may therefore number the same class differently: compare
    `class_names`. Keys are file names without suffix, because in both data sets an image and its annotation share that name.
    A box that reaches beyond its image is clipped; if the file gives no size, or none above 0, it is clipped at 0 only. Files
    whose name begins with a dot are passed over.

    Raises:
        UserError: there is no XML file, a file is not of this format, two files have the same name, or a box has no part
            inside its image.
    """
    files = sorted(file for file in path.rglob("*.xml") if file.name[0] != ".") if path.is_dir() else [path]
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
        empty=empty,
    )


def _read_xml(file: Path) -> list[tuple[list[float] | None, str]]:
    """(box, class name) of every object in one file; the box is None if it has no area."""
    where = f"boxes {file}"
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an unknown encoding
        raise UserError(f"{where}: not a VOC annotation ({type(error).__name__}: {first_line(error)})") from error
    if root.tag != "annotation":
        raise UserError(f"{where}: not a VOC annotation (its root is <{root.tag}>, expected <annotation>)")
    size = _size([(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")], where=where)
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
    """Resizes the short side to `size` pixels (Pillow's antialiased bicubic filter), then crops the central square.

    One geometry moves image, boxes and mask, so they always fit together. The long side is rounded to whole pixels.
    """

    size: int

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "s s C"]:
        """The transformed image."""
        (width, height), (left, top) = self._geometry(image.shape[1], image.shape[0])
        return resize(image, height=height, width=width)[top : top + self.size, left : left + self.size]

    def mask(
        self, mask: Int32[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]
    ) -> Int32[np.ndarray, "s s"] | Float32[np.ndarray, "s s"]:
        """The transformed mask: each pixel takes the label, or the depth, of the original pixel under its centre."""
        (width, height), (left, top) = self._geometry(mask.shape[1], mask.shape[0])
        resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(resized.crop((left, top, left + self.size, top + self.size)))

    def boxes(self, boxes: Boxes, *, width: int, height: int) -> Boxes:
        """The transformed boxes of an image of this width and height; those wholly outside the result are left out."""
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
        numbers = [] if isinstance(values, str) else [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UserError(f"{where}: {values!r:.80} is not {count} finite numbers; repair or remove it")
    return numbers


def _size(sides: list[Any], *, where: str) -> list[float]:
    """Width and height; 0 for what is not known: nothing, or a number below 0, as some programs write it."""
    return [max(side, 0.0) for side in _numbers([side or 0 for side in sides], count=2, where=where)]


def _clipped(box: tuple[float, float, float, float], *, size: list[float], where: str) -> list[float] | None:
    """The part of a box inside an image of this width and height (0: unknown); None for a box without width or height."""
    x0, y0, x1, y1 = box
    if x1 == x0 or y1 == y0:
        return None
    right, bottom = (side or math.inf for side in size)
    if x1 < x0 or y1 < y0 or x0 >= right or y0 >= bottom or x1 <= 0 or y1 <= 0:
        raise UserError(
            f"{where}: box {[round(value, 1) for value in box]} (x0, y0, x1, y1) has no part inside its "
            f"{right:g}×{bottom:g} image; repair or remove it"
        )
    return [max(x0, 0.0), max(y0, 0.0), min(x1, right), min(y1, bottom)]


def _warn_of_empty(path: Path, count: int) -> None:
    if count:
        log.warning("boxes %s: left out %d without width or height", path, count)
