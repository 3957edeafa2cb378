"""UAVDT (Du et al. 2018) as it is handed out: folders of frames, and text files of vehicles and ignored areas.

The images are `ROOT/M0101/img000001.jpg`, …: a folder for each clip, frames numbered from 1 on. The vehicles of a clip are the
lines of `ANNOTATIONS/M0101_gt_whole.txt`, nine numbers each: frame, track, x, y, width and height of the box in pixels, out of
view, occlusion, and category (1 car, 2 truck, 3 bus). Its ignored areas are the lines of `M0101_gt_ignore.txt`, of which frame
and box are read; a clip without such a file has none, and an area in a frame that has no image hides nothing.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.errors import UserError, reason

# The official clips: the toolkit judges detectors on those to test on, and the attribute files of the data set name both.
CLIPS = {
    "train": (
        *("M0101", "M0201", "M0202", "M0204", "M0206", "M0207", "M0210", "M0301", "M0401", "M0402"),
        *("M0501", "M0603", "M0604", "M0605", "M0702", "M0703", "M0704", "M0901", "M0902", "M1002"),
        *("M1003", "M1005", "M1006", "M1008", "M1102", "M1201", "M1202", "M1304", "M1305", "M1306"),
    ),
    "test": (
        *("M0203", "M0205", "M0208", "M0209", "M0403", "M0601", "M0602", "M0606", "M0701", "M0801"),
        *("M0802", "M1001", "M1004", "M1007", "M1009", "M1101", "M1301", "M1302", "M1303", "M1401"),
    ),
}
_CATEGORIES = {1: "car", 2: "truck", 3: "bus"}
_FRAME = re.compile(r"img(\d+)\.jpg")
# What the numbers of a line are, as far as they are read, and the category's place.
_BOX_FIELDS, _CATEGORY_FIELD = 6, 8


def chosen_clips(clips: tuple[str, ...], *, split: str, path: str) -> tuple[str, ...]:
    """The clips that a config names, or those of its split.

    Raises:
        UserError: UAVDT has no such split, or a clip is named twice; `path` is what the user calls the config.
    """
    if len(set(clips)) < len(clips):
        raise UserError(f"{path}.clips names a clip twice: {', '.join(clips)}")
    if not clips and split not in CLIPS:
        raise UserError(
            f'{path}.split is "{split}"; UAVDT has "train" and "test", and {path}.clips names clips of your choice'
        )
    return clips or CLIPS[split]


def uavdt_truth(root: Path, annotations: Path, *, clips: tuple[str, ...], path: str) -> dict[str, Any]:
    """All frames of some clips in COCO's form: the three categories as one, "vehicle", and ignored areas as crowds.

    Frames without vehicles are there too. Boxes are as the files have them, also where they reach beyond the image. Frames of
    one clip have the size of its first one.

    Args:
        root: folder of the clips' folders.
        annotations: folder of the text files.
        clips: their names.
        path: what the user calls the config, such as "config.data.train", for messages.

    Raises:
        UserError: a folder or file is missing or cannot be read, or a line is not as it should be.
    """
    missing = [clip for clip in clips if not (root / clip).is_dir()]
    if missing:
        raise UserError(
            f"{root} lacks {len(missing)} of the {len(clips)} clips, such as {missing[0]}; name UAVDT's folder of clips as "
            f"{path}.root, or the clips at hand as {path}.clips"
        )
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for clip in clips:
        frames = _frames(root / clip)
        first = root / clip / frames[min(frames)]
        height, width = _size(first)
        ids = {frame: len(images) + place for place, frame in enumerate(sorted(frames), start=1)}
        images += [
            {"id": ids[frame], "file_name": f"{clip}/{frames[frame]}", "width": width, "height": height}
            for frame in ids
        ]
        truth, ignored = annotations / f"{clip}_gt_whole.txt", annotations / f"{clip}_gt_ignore.txt"
        if not truth.is_file():
            raise UserError(
                f"{annotations} has no {truth.name}; name UAVDT's folder of such files as {path}.annotations"
            )
        for file, crowd in ((truth, 0), (ignored, 1)):
            if crowd and not file.exists():
                continue
            for frame, box in _boxes(file, frames=ids, folder=root / clip, ignored=bool(crowd)):
                found.append(_annotation(len(found) + 1, ids[frame], box, crowd=crowd))
    return {"images": images, "annotations": found, "categories": [{"id": 1, "name": "vehicle"}]}


def _annotation(number: int, image_id: int, box: list[float], *, crowd: int) -> dict[str, Any]:
    ids = {"id": number, "image_id": image_id, "category_id": 1}
    return ids | {"bbox": box, "area": box[2] * box[3], "iscrowd": crowd}


def _frames(folder: Path) -> dict[int, str]:
    """The file name of each frame."""
    matches = [match for file in folder.iterdir() if (match := _FRAME.fullmatch(file.name))]
    if not matches:
        raise UserError(f"{folder} has no frame; expected img000001.jpg, img000002.jpg, …")
    return {int(match[1]): match[0] for match in matches}


def _size(file: Path) -> tuple[int, ...]:
    try:
        return decode_image(file.read_bytes(), name=str(file)).shape[:2]
    except (OSError, DecodeError) as error:
        raise UserError(f"image {file} cannot be read ({reason(error)}); repair or remove it") from error


def _boxes(file: Path, *, frames: dict[int, int], folder: Path, ignored: bool) -> Iterator[tuple[int, list[float]]]:
    """Frame and [x, y, width, height] of each line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({reason(error)}); repair it") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file} line {number}"
        values = _numbers(line, count=_BOX_FIELDS if ignored else _CATEGORY_FIELD + 1, where=where)
        frame, (width, height) = values[0], values[4:_BOX_FIELDS]
        if frame not in frames:
            if ignored:
                continue
            raise UserError(
                f"{where} is of frame {frame:g}, which {folder} has no image of; add it, or remove the line"
            )
        if width < 0 or height < 0:
            raise UserError(f"{where} has a box of {width:g}×{height:g} pixels; correct or remove the line")
        if not ignored and values[_CATEGORY_FIELD] not in _CATEGORIES:
            known = ", ".join(f"{category} ({name})" for category, name in _CATEGORIES.items())
            raise UserError(f"{where} has category {values[_CATEGORY_FIELD]:g}; expected {known}")
        yield int(frame), values[2:_BOX_FIELDS]


def _numbers(line: str, *, count: int, where: str) -> list[float]:
    try:
        values = [float(value) for value in line.strip().rstrip(",").split(",")]
    except ValueError:
        values = []
    if len(values) < count or not all(map(math.isfinite, values)):
        raise UserError(f'{where} is "{line.strip()[:60]}"; expected at least {count} numbers separated by commas')
    return values
