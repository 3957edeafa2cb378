"""Folders with boxes from a file: what is matched, and what the log says of it."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from flsl_jax.data.sources.boxed_source import with_boxes
from flsl_jax.data.sources.opening import FirstRecords, FolderSource
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError

IMAGES = ("a/1.png", "a/2.png", "b/3.png", "b/4.png")


@pytest.fixture
def folder(tmp_path: Path) -> FolderSource:
    for name in IMAGES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / name)
    return FolderSource(tmp_path / "images")


def _coco(path: Path, names, *, crowds: int = 0, boxes: int | None = None) -> Path:
    """A file that lists these names; the first `boxes` of them (None: all) have a box, and the first image has crowds too."""
    annotations = [
        {"id": number, "image_id": number, "category_id": 1, "bbox": [number, 0, 5, 5], "iscrowd": 0}
        for number in range(len(names) if boxes is None else boxes)
    ]
    annotations += [{"id": 9, "image_id": 0, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 1}] * crowds
    images = [{"id": number, "file_name": name, "width": 30, "height": 20} for number, name in enumerate(names)]
    path.write_text(json.dumps({"images": images, "categories": [{"id": 1, "name": "x"}], "annotations": annotations}))
    return path


@pytest.mark.parametrize("spelling", ["{}", "./{}", "train/{}", "D:\\set\\{}", "/data/set/{}"])
def test_boxes_of_every_spelling_are_those_of_their_image(tmp_path, folder, caplog, spelling):
    caplog.set_level(logging.INFO)
    boxed = with_boxes(folder, _coco(tmp_path / "b.json", [spelling.format(name) for name in IMAGES]))
    assert [boxed[index].boxes.xyxy[0, 0] for index in range(4)] == [0, 1, 2, 3]
    assert "boxes for 4 of 4 images" in caplog.text
    assert ("4 names matched by their ends" in caplog.text) == (spelling != "{}")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_log_counts_images_names_and_crowds(tmp_path, folder, caplog):
    caplog.set_level(logging.INFO)
    path = _coco(tmp_path / "b.json", [*IMAGES, "zz/8.png"], crowds=2, boxes=3)
    with_boxes(folder, path)
    assert caplog.messages == [
        f"boxes {path}: boxes for 3 of 4 images; 1 of 5 names not in {folder.name}, such as zz/8.png; left out 2 crowds"
    ]


@pytest.mark.parametrize("wrong", [1, 3, 4, 9])
def test_half_of_the_names_without_an_image_is_a_warning_that_stands_out(tmp_path, folder, caplog, wrong):
    boxed = with_boxes(folder, _coco(tmp_path / "b.json", [*IMAGES, *(f"zz/{number}x.png" for number in range(wrong))]))
    loud = [line for line in caplog.messages if line.startswith("WARNING: ")]
    assert bool(loud) == (wrong >= 4)
    if loud:
        assert f"{wrong} of the {4 + wrong} names" in loud[-1]
    assert [f"WARNING: {line}" for line in FirstRecords(boxed, limit=2).warnings] == loud


def test_no_name_at_all_is_an_error_that_shows_both_sides(tmp_path, folder):
    with pytest.raises(
        UserError, match=r"none of its 2 names is an image of .*it has x\.png, y\.png, and the folder a/1\.png"
    ):
        with_boxes(folder, _coco(tmp_path / "b.json", ["x.png", "y.png"]))


def test_crowds_alone_are_said_to_be_crowds(tmp_path, folder):
    with pytest.raises(UserError, match=r"b\.json: it has no box, only 3 crowds;"):
        with_boxes(folder, _coco(tmp_path / "b.json", IMAGES, crowds=3, boxes=0))


def test_a_name_with_a_line_break_stays_in_one_line(tmp_path, folder, caplog):
    caplog.set_level(logging.INFO)
    with_boxes(folder, _coco(tmp_path / "b.json", [*IMAGES, "two\nlines.png"]))
    assert len(caplog.messages[0].splitlines()) == 1
    assert r"such as two\nlines.png" in caplog.messages[0]
    with pytest.raises(UserError) as error:
        with_boxes(folder, _coco(tmp_path / "b.json", ["two\nlines.png"]))
    assert len(str(error.value).splitlines()) == 1


def test_other_sources_are_looked_up_by_the_name_of_a_record(tmp_path):
    scenes = Scenes(count=2, size=32)
    boxed = with_boxes(scenes, _coco(tmp_path / "b.json", [scenes[1].name]))
    assert boxed.match is None
    assert boxed[0].boxes is None
    assert boxed[1].boxes.xyxy.tolist() == [[0, 0, 5, 5]]
