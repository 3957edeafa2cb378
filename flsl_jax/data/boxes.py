"""Bounding boxes with labels: readers of COCO JSON and VOC / ILSVRC XML, and boxes through a resize and crop."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from flsl_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of one image: `xyxy` float32 [M, 4] in pixels of the upright original image, `labels` int64 [M]."""

    xyxy: Float[np.ndarray, "M 4"]
    labels: Int64[np.ndarray, " M"]

    def areas(self) -> Float[np.ndarray, " M"]:
        """Width times height of each."""
        return (self.xyxy[:, 2] - self.xyxy[:, 0]) * (self.xyxy[:, 3] - self.xyxy[:, 1])


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

    Boxes are clipped to their image. Keys are the images' `file_name`.

    Raises:
        UserError: not a COCO file, an annotation of an unknown image or category, or a box of no area.
    """
    try:
        content = json.loads(path.read_text())
        images = {image["id"]: image for image in content["images"]}
        categories = sorted(content["categories"], key=lambda category: category["id"])
        annotations = content["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"boxes {path}: not a COCO instances file ({type(error).__name__}: {error})") from error
    labels = {category["id"]: label for label, category in enumerate(categories)}
    found: dict[str, list[tuple[list[float], int]]] = {image["file_name"]: [] for image in images.values()}
    for annotation in annotations:
        if annotation.get("iscrowd"):
            continue
        where = f"boxes {path}: annotation {annotation.get('id')}"
        if annotation.get("image_id") not in images or annotation.get("category_id") not in labels:
            raise UserError(
                f"{where} names image {annotation.get('image_id')} and category {annotation.get('category_id')}, "
                "at least one of which the file does not list"
            )
        image = images[annotation["image_id"]]
        x, y, width, height = annotation["bbox"]
        size = (image.get("width", np.inf), image.get("height", np.inf))
        box = _clipped([x, y, x + width, y + height], size=size, where=where)
        found[image["file_name"]].append((box, labels[annotation["category_id"]]))
    return Annotations(
        boxes={name: _boxes(items) for name, items in found.items()},
        class_names=tuple(str(category["name"]) for category in categories),
    )


def read_voc(path: Path) -> Annotations:
    """Boxes of VOC or ILSVRC CLS-LOC XML files; a pixel range (1-based, inclusive) becomes [xmin - 1, xmax).

    Classes are the sorted names that occur. Keys are file names without suffix, which both data sets share between
    image and annotation.

    Raises:
        UserError: no XML file there, one that is not of this format, or a box of no area.
    """
    files = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"boxes {path}: no .xml file in this folder")
    found: dict[str, list[tuple[list[float], str]]] = {}
    for file in files:
        try:
            root = ElementTree.parse(file).getroot()
            size = root.find("size")
            limits = (float(size.find("width").text), float(size.find("height").text))
            items = []
            for item in root.findall("object"):
                corners = [float(item.find(f"bndbox/{name}").text) for name in ("xmin", "ymin", "xmax", "ymax")]
                corners[0], corners[1] = corners[0] - 1, corners[1] - 1
                items.append((_clipped(corners, size=limits, where=f"boxes {file}"), item.find("name").text))
        except (OSError, ElementTree.ParseError, AttributeError, TypeError) as error:
            raise UserError(f"boxes {file}: not a VOC annotation ({type(error).__name__}: {error})") from error
        found[file.stem] = items
    names = sorted({name for items in found.values() for _, name in items})
    labels = {name: label for label, name in enumerate(names)}
    return Annotations(
        boxes={key: _boxes([(box, labels[name]) for box, name in items]) for key, items in found.items()},
        class_names=tuple(names),
    )


@dataclasses.dataclass(frozen=True)
class ResizeCrop:
    """The short side resized to `size` (Pillow, bicubic), then the central square; image and boxes alike."""

    size: int

    def image(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "s s 3"]:
        """The transformed image."""
        (width, height), (left, top) = self._geometry(image.shape[1], image.shape[0])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
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
        resized = (max(self.size, round(width * self.size / short)), max(self.size, round(height * self.size / short)))
        return resized, ((resized[0] - self.size) // 2, (resized[1] - self.size) // 2)


def _boxes(items: list[tuple[list[float], int]]) -> Boxes:
    corners = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    return Boxes(xyxy=corners, labels=np.array([label for _, label in items], np.int64))


def _clipped(box: list[float], *, size: tuple[float, float], where: str) -> list[float]:
    x0, y0, x1, y1 = box
    clipped = [max(x0, 0.0), max(y0, 0.0), min(x1, size[0]), min(y1, size[1])]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise UserError(
            f"{where}: box {[round(value, 1) for value in box]} (x0, y0, x1, y1) has no area inside its "
            f"{size[0]:g}×{size[1]:g} image; mend or remove it"
        )
    return clipped
