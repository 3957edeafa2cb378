"""What a trained model finds in a folder of images: COCO results or masks of class ids, and pictures."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.errors import UserError
from flsl_jax.transfer.data.samples import as_levels
from flsl_jax.transfer.judging.measuring import coco_results, predicted_classes
from flsl_jax.transfer.pictures.drawing import class_color, detection_mark, draw_objects, draw_regions
from flsl_jax.transfer.trained import Trained

log = logging.getLogger(__name__)


def predict_folder(trained: Trained, folder: str, output: Path, *, score: float) -> int:
    """Writes what the model finds in every image of a folder; returns how many images there were.

    A detector writes `results.json` in COCO's results format with all boxes that it gives, and `images.json` with the images'
    ids and the categories; a segmenter writes a 16-bit PNG of class numbers for each image in `masks/`. Both write a picture
    of each image in `pictures/`. A file that cannot be read is left out with a warning.

    Args:
        trained: the model.
        folder: of images, at any depth.
        output: a folder that is not there yet or is empty.
        score: how sure a detection must be to be drawn, 0 to 1.

    Raises:
        UserError: there is no image, or `output` has files in it or cannot be written.
    """
    source = FolderSource(folder)
    _make_empty(output)
    results: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for index in tqdm(range(len(source)), desc="predicting", unit="image", disable=None):
        try:
            record = source[index]
            assert isinstance(record.image, bytes)
            image = decode_image(record.image, name=record.name)
        except (DecodeError, OSError) as error:
            log.warning("left out: %s", error)
            continue
        images.append({"id": index, "file_name": record.name, "width": image.shape[1], "height": image.shape[0]})
        if trained.config.is_segmentation:
            labels = segment(trained, image)
            _save(Image.fromarray(labels.astype(np.uint16)), output / "masks", record.name)
            picture = draw_regions(image, labels, {label: class_color(label) for label in np.unique(labels).tolist()})
        else:
            found = detect_objects(trained, image, image_id=index)
            results += found
            picture = _with_objects(image, [item for item in found if item["score"] >= score], trained)
        _save(picture, output / "pictures", record.name)
    if not trained.config.is_segmentation:
        categories = [
            {"id": number, "name": name} for number, name in zip(trained.category_ids, trained.class_names, strict=True)
        ]
        (output / "results.json").write_text(json.dumps(results))
        (output / "images.json").write_text(json.dumps({"images": images, "categories": categories}))
    return len(images)


@torch.no_grad()
def detect_objects(trained: Trained, image: np.ndarray, *, image_id: int = 0) -> list[dict[str, Any]]:
    """The objects in one image, uint8 [H, W, 3], in COCO's results format, the surest first."""
    (found,) = trained.network([as_levels(image).to(trained.device)])
    return coco_results(found, image_id=image_id, category_ids=trained.category_ids)


def segment(trained: Trained, image: np.ndarray) -> np.ndarray:
    """The class of each pixel of one image, uint8 [H, W, 3]: int64 [H, W]."""
    return predicted_classes(trained.network, image, device=trained.device, augment=trained.config.augment)


def _with_objects(image: np.ndarray, found: Sequence[dict[str, Any]], trained: Trained) -> Image.Image:
    names = dict(zip(trained.category_ids, trained.class_names, strict=True))
    return draw_objects(image, [detection_mark(item, names) for item in found])


def _save(picture: Image.Image, folder: Path, name: str) -> None:
    place = (folder / name).with_suffix(".png")
    place.parent.mkdir(parents=True, exist_ok=True)
    picture.save(place)


def _make_empty(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        if any(output.iterdir()):
            raise UserError(f"--output={output} has files in it; name another folder")
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}); name a folder that can") from error
