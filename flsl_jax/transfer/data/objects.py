"""Images with the boxes and masks of their objects, from COCO files, UAVDT's text files or the embedded scenes."""

import contextlib
import dataclasses
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO

from flsl_jax.data.annotation_files import load_json
from flsl_jax.data.boxes import read_coco
from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.data.images.image_files import upright_size
from flsl_jax.data.records import checked_index, digest_of
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError, reason
from flsl_jax.transfer.config import DetectionSourceConfig, IgnoredRule
from flsl_jax.transfer.data.uavdt import chosen_clips, uavdt_truth


@dataclasses.dataclass(frozen=True)
class Objects:
    """The M objects of an image, without crowds and without boxes that have no area.

    `xyxy`: float32 [M, 4] in pixels. `labels`: int64 [M], from 1 on. `masks`: uint8 [M, H, W] of 0 and 1; None if not read.
    """

    xyxy: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None


class ObjectImages:
    """A data set with random access.

    `name`: for messages. `class_names`: of the labels 1, 2, … in the order of the category ids. `coco`: the truth in COCO's
    form, crowds included. `image_ids`: the image's id of each index. `ignored_rule`, `fill_ignored`: as given.

    Args:
        name: for messages.
        truth: content of a COCO instances file; crowds are the areas in which no object is wanted and none is missed.
        read: gives the image of an entry of `truth["images"]`, uint8 [H, W, 3]; picklable, for the processes that read images.
        limit: keeps the first images only; 0: all.
        ignored_rule: which detections lie in a crowd, where UAVDT's AP is measured; None: it is not.
        fill_ignored: whether crowds are painted over in training.
    """

    def __init__(
        self,
        name: str,
        truth: dict[str, Any],
        *,
        read: Callable[[dict[str, Any]], np.ndarray],
        limit: int = 0,
        ignored_rule: IgnoredRule | None = None,
        fill_ignored: bool = False,
    ) -> None:
        self.name, self._read = name, read
        self.ignored_rule: IgnoredRule | None = ignored_rule
        self.fill_ignored = fill_ignored
        self.coco = coco_of(truth)
        categories = sorted(truth["categories"], key=lambda category: category["id"])
        self.class_names = tuple(str(category["name"]) for category in categories)
        self.category_ids = tuple(int(category["id"]) for category in categories)
        ids = sorted(image["id"] for image in truth["images"])
        self.image_ids = ids[:limit] if limit else ids
        self.has_masks = all(item.get("segmentation") for item in truth["annotations"])
        self._labels = {number: label for label, number in enumerate(self.category_ids, start=1)}

    @property
    def digest(self) -> str:
        """SHA-256 of which images there are, with their ids, names and sizes, and of their annotations without the masks.

        It stands neither for where the images lie, nor for their pixels.
        """
        classes = json.dumps([self.category_ids, self.class_names])
        return digest_of(classes, *(json.dumps(self._facts(number)) for number in self.image_ids))

    def __len__(self) -> int:
        return len(self.image_ids)

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 [H, W, 3].

        Raises:
            UserError: its file cannot be read, or has another size than its annotations say.
        """
        entry = self._entry(index)
        pixels = self._read(entry)
        if pixels.shape[:2] != (entry["height"], entry["width"]):
            raise UserError(
                f"image {entry['file_name']} is {pixels.shape[1]}×{pixels.shape[0]}, but its annotations are of "
                f"{entry['width']}×{entry['height']}; give the annotations of these very images"
            )
        return pixels

    def objects(self, index: int, *, masks: bool) -> Objects:
        """The objects to train on in one image, clipped to it."""
        entry = self._entry(index)
        size = np.array([entry["width"], entry["height"]] * 2)
        found = [item for item in self.coco.imgToAnns[entry["id"]] if not item.get("iscrowd")]
        corners = np.clip(self.boxes(index, crowds=False), 0, size)
        whole = np.flatnonzero((corners[:, 2:] - corners[:, :2]).min(axis=1, initial=np.inf) > 1e-3)
        kept = [found[number] for number in whole]
        labels = np.array([self._labels[item["category_id"]] for item in kept], np.int64)
        drawn = None
        if masks:
            drawn = np.zeros((len(kept), entry["height"], entry["width"]), np.uint8)
            for mask, item in zip(drawn, kept, strict=True):
                mask[...] = self.coco.annToMask(item)
        return Objects(xyxy=corners[whole].astype(np.float32), labels=labels, masks=drawn)

    def boxes(self, index: int, *, crowds: bool) -> np.ndarray:
        """The boxes of all objects, or of all crowds, of one image, float64 [M, 4], (x0, y0, x1, y1), as they are annotated."""
        items = self.coco.imgToAnns[self._entry(index)["id"]]
        chosen = [item["bbox"] for item in items if bool(item.get("iscrowd")) == crowds]
        corners = np.array(chosen, np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return corners

    def _facts(self, image_id: int) -> list[Any]:
        """What its digest says of an image; plain JSON."""
        entry = self.coco.imgs[image_id]
        objects = [
            [item.get(key) for key in ("category_id", "bbox", "iscrowd", "area")]
            for item in self.coco.imgToAnns[image_id]
        ]
        return [image_id, entry["file_name"], entry["width"], entry["height"], objects]

    def _entry(self, index: int) -> dict[str, Any]:
        return self.coco.imgs[self.image_ids[checked_index(index, len(self))]]


def open_objects(config: DetectionSourceConfig, *, path: str, masks: bool) -> ObjectImages:
    """Opens what a config describes.

    Args:
        config: the images.
        path: what the user calls the config, such as "config.data.train", for messages.
        masks: whether every object must have a mask.

    Raises:
        UserError: the config lacks a value, a file is missing or not of its kind, or an object has no mask.
    """
    needed = ("count", "scene_size") if config.name == "scenes" else ("root", "annotations")
    for key in needed:
        if not getattr(config, key):
            raise UserError(f"{path}.{key} is missing; {path}.name={config.name} needs it")
    if config.name == "scenes":
        scenes = Scenes(count=config.count, size=config.scene_size, split=config.split)
        truth = _scenes_truth(scenes, size=config.scene_size)
        images = ObjectImages(scenes.name, truth, limit=config.limit, read=functools.partial(_drawn, scenes))
    elif config.name == "uavdt":
        images = _uavdt_images(config, path=path)
    else:
        images = _coco_images(config)
    if masks and not images.has_masks:
        raise UserError(f"{images.name} has objects without masks; train kind=faster_rcnn, or give instance masks")
    return images


def coco_of(truth: dict[str, Any]) -> Any:
    """pycocotools' index of a COCO file's content, without what it prints."""
    coco: Any = COCO()  # whose own types are narrower than what it takes
    coco.dataset = truth
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _coco_images(config: DetectionSourceConfig) -> ObjectImages:
    place, root = Path(config.annotations), Path(config.root)
    read_coco(place)  # refuses by name what is no COCO file, unknown images and categories, and boxes outside
    truth = load_json(place)
    missing = [image["file_name"] for image in truth["images"] if not (root / image["file_name"]).is_file()]
    if missing:
        raise UserError(
            f"{root} lacks {len(missing)} of the {len(truth['images'])} images in {place}, such as {missing[0]}; name the "
            "folder that their names are relative to"
        )
    for image in truth["images"]:
        sides = [image.get(side) for side in ("width", "height")]
        if not all(isinstance(side, int) and side > 0 for side in sides):  # some programs write none, or -1
            image["width"], image["height"] = upright_size(root / image["file_name"])
    return ObjectImages(str(place), truth, limit=config.limit, read=functools.partial(_decoded, root))


def _uavdt_images(config: DetectionSourceConfig, *, path: str) -> ObjectImages:
    root = Path(config.root)
    clips = chosen_clips(config.clips, split=config.split, path=path)
    return ObjectImages(
        f"{root} ({', '.join(config.clips) or config.split})",
        uavdt_truth(root, Path(config.annotations), clips=clips, path=path),
        limit=config.limit,
        read=functools.partial(_decoded, root),
        ignored_rule=config.ignored_rule,
        fill_ignored=config.fill_ignored,
    )


def _drawn(scenes: Scenes, entry: dict[str, Any]) -> np.ndarray:
    return np.asarray(scenes[entry["id"]].image)


def _decoded(root: Path, entry: dict[str, Any]) -> np.ndarray:
    path = root / entry["file_name"]
    try:
        return decode_image(path.read_bytes(), name=str(path))
    except (OSError, DecodeError) as error:
        raise UserError(f"image {path} cannot be read ({reason(error)}); repair or remove it") from error


def _scenes_truth(scenes: Scenes, *, size: int) -> dict[str, Any]:
    """The scenes' exact boxes and masks in COCO's form."""
    images, annotations = [], []
    for index in range(len(scenes)):
        images.append({"id": index, "file_name": f"scene {index}", "width": size, "height": size})
        masks = scenes.masks(index)
        for number in range(1, int(masks.instances.max()) + 1):
            seen = masks.instances == number
            if not seen.any():  # hidden behind others
                continue
            mask = rle.encode(np.asfortranarray(seen.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(masks.classes[seen][0]),
                    "bbox": [float(value) for value in rle.toBbox(mask)],
                    "area": int(rle.area(mask)),
                    "segmentation": mask,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(scenes.class_names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}
