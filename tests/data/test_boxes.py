"""Readers of COCO and VOC annotations, and boxes through the resize and crop of their image."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.data.boxes import Boxes, ResizeCrop, read_boxes, read_coco, read_voc
from flsl_jax.errors import UserError


def _boxes(*corners: tuple[float, float, float, float], labels: tuple[int, ...] | None = None) -> Boxes:
    numbers = range(len(corners)) if labels is None else labels
    return Boxes(xyxy=np.array(corners, np.float32).reshape(-1, 4), labels=np.array(numbers, np.int64))


def _coco(path: Path, *annotations: dict) -> Path:
    content = {
        "images": [
            {"id": 7, "file_name": "b/seven.jpg", "width": 40, "height": 30},
            {"id": 3, "file_name": "three.jpg", "width": 20, "height": 20},
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 2, "name": "bicycle"}],
        "annotations": [{"id": index, **item} for index, item in enumerate(annotations)],
    }
    path.write_text(json.dumps(content))
    return path


def _xml(path: Path, *objects: str, size: str = "<size><width>40</width><height>30</height></size>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>x</filename>{size}{''.join(objects)}</annotation>")
    return path


def _object(name: str, *corners: float) -> str:
    tags = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"


def test_largest_is_by_area_and_the_first_of_equals() -> None:
    boxes = _boxes((0, 0, 9, 1), (0, 0, 4, 3), (5, 5, 8, 9))
    np.testing.assert_array_equal(boxes.areas(), [9, 12, 12])
    assert boxes.largest() == 1


def test_coco_boxes_are_corners_with_dense_labels_in_the_order_of_ids(tmp_path: Path) -> None:
    path = _coco(
        tmp_path / "a.json",
        {"image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20]},
        {"image_id": 7, "category_id": 2, "bbox": [0.5, 0, 3, 4], "iscrowd": 0},
        {"image_id": 7, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
        {"image_id": 7, "category_id": 2, "bbox": [35, -4, 10, 20]},
        {"image_id": 7, "category_id": 2, "bbox": [5, 5, 0, 3]},
    )
    annotations = read_boxes(path)
    assert annotations.class_names == ("bicycle", "brush")
    assert set(annotations.boxes) == {"b/seven.jpg", "three.jpg"}
    seven = annotations.boxes["b/seven.jpg"]
    np.testing.assert_array_equal(seven.xyxy, [[1, 2, 11, 22], [0.5, 0, 3.5, 4], [35, 0, 40, 16]])
    np.testing.assert_array_equal(seven.labels, [1, 0, 0])
    assert annotations.boxes["three.jpg"].xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("annotation", "complaint"),
    [
        ({"image_id": 8, "category_id": 2, "bbox": [0, 0, 1, 1]}, "image_id 8"),
        ({"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}, "category_id 1"),
        ({"category_id": 2, "bbox": [0, 0, 1, 1]}, "image_id None"),
        ({"image_id": 7, "category_id": 2}, "finite numbers"),
        ({"image_id": 7, "category_id": 2, "bbox": [0, 0, 1]}, "finite numbers"),
        ({"image_id": 7, "category_id": 2, "bbox": [0, 0, float("nan"), 1]}, "finite numbers"),
        ({"image_id": 7, "category_id": 2, "bbox": [5, 5, -2, 3]}, "no part inside"),
        ({"image_id": 7, "category_id": 2, "bbox": [40, 5, 2, 3]}, "40×30"),
        ({"image_id": [7], "category_id": 2, "bbox": [0, 0, 1, 1]}, r"image_id \[7\]"),
        ({"image_id": "7", "category_id": 2, "bbox": [0, 0, 1, 1]}, "image_id '7'"),
        ({"image_id": 7, "category_id": {"a": 1}, "bbox": [0, 0, 1, 1]}, "category_id"),
        ({"image_id": 7, "category_id": 2, "bbox": [10**400, 0, 1, 1]}, "finite numbers"),
        ({"image_id": 7, "category_id": 2, "bbox": "1234"}, "finite numbers"),
    ],
)
def test_a_wrong_coco_annotation_is_named(tmp_path: Path, annotation: dict, complaint: str) -> None:
    path = _coco(tmp_path / "a.json", {"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]}, annotation)
    with pytest.raises(UserError, match=complaint) as error:
        read_coco(path)
    assert f"boxes {path}: annotation 1" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_and_other_encodings_pass(tmp_path: Path, encoding: str) -> None:
    path = _coco(tmp_path / "a.json", {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]})
    plain = read_coco(path)
    path.write_bytes(path.read_text().encode(encoding))
    assert read_coco(path).class_names == plain.class_names
    np.testing.assert_array_equal(read_coco(path).boxes["b/seven.jpg"].xyxy, [[1, 2, 4, 6]])


@pytest.mark.parametrize("side", [-1, 0, None, "", -1.0])
def test_a_size_that_is_not_known_clips_nothing(tmp_path: Path, side: float | str | None) -> None:
    path = _coco(tmp_path / "a.json", {"image_id": 7, "category_id": 2, "bbox": [-3, 2, 100, 100]})
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": side, "height": side}
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_coco(path).boxes["b/seven.jpg"].xyxy, [[0, 2, 97, 102]])


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    item = {"image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1]}
    annotations = read_coco(
        _coco(tmp_path / "a.json", item, item | {"iscrowd": 1}, item | {"iscrowd": 1}, item | {"bbox": [0, 0, 0, 1]})
    )
    assert (annotations.crowds, annotations.empty) == (2, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100000,
        '{"images": ' + "[" * 100000,
        "{",
        "[]",
        '{"images": []}',
        '{"images": [{"id": 1}]}',
        '{"images": 3}',
        "\x00",
    ],
)
def test_a_file_that_is_not_coco_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not a COCO instances file"):
        read_coco(path)


def test_voc_ranges_count_from_one_and_include_their_end(tmp_path: Path) -> None:
    _xml(tmp_path / "deep" / "n2_1.xml", _object("n2", 1, 1, 40, 30), _object("n1", 0, 5, 3.5, 41))
    _xml(tmp_path / "n1_5.xml", _object("n1", 7, 8, 7, 8), size="")
    _xml(tmp_path / "n1_6.xml")
    annotations = read_boxes(tmp_path)
    assert annotations.class_names == ("n1", "n2")
    np.testing.assert_array_equal(annotations.boxes["n2_1"].xyxy, [[0, 0, 40, 30], [0, 4, 3.5, 30]])
    np.testing.assert_array_equal(annotations.boxes["n2_1"].labels, [1, 0])
    np.testing.assert_array_equal(annotations.boxes["n1_5"].xyxy, [[6, 7, 7, 8]])
    assert annotations.boxes["n1_6"].labels.size == 0
    assert set(read_boxes(tmp_path / "n1_5.xml").boxes) == {"n1_5"}


@pytest.mark.parametrize(
    "size",
    [
        "<width/><height/>",
        "<width></width><height> </height>",
        "<width>-1</width><height>-1</height>",
        "<width>0</width>",
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_an_empty_size_and_a_byte_order_mark_pass(tmp_path: Path, size: str, mark: bytes) -> None:
    path = _xml(tmp_path / "1.xml", _object("n1", 1, 1, 400, 300), size=f"<size>{size}</size>")
    path.write_bytes(mark + path.read_bytes())
    (tmp_path / "._1.xml").write_bytes(b"\x00\x05\x16\x07Mac OS X")
    np.testing.assert_array_equal(read_voc(tmp_path).boxes["1"].xyxy, [[0, 0, 400, 300]])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("<annotation>", "not a VOC annotation"),
        ("<html></html>", "<html>"),
        ("<?xml version='1.0' encoding='none'?><annotation></annotation>", "not a VOC annotation.*unknown encoding"),
        (f"<annotation>{_object('', 1, 1, 2, 2)}</annotation>", "no <name>"),
        (f"<annotation>{_object('cat', 1, 1, 2)}</annotation>", "cat.*finite numbers"),
        ("<annotation><object><name>cat</name></object></annotation>", "finite numbers"),
        (f"<annotation>{_object('cat', 1, 'x', 2, 3)}</annotation>", "finite numbers"),
        (f"<annotation>{_object('cat', 9, 1, 2, 3)}</annotation>", "no part inside"),
        ("<annotation><size><width>wide</width></size></annotation>", "finite numbers"),
    ],
)
def test_a_wrong_voc_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(content)
    with pytest.raises(UserError, match=complaint) as error:
        read_voc(tmp_path)
    assert f"boxes {path}" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_doubled_and_unknown_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.xml file"):
        read_boxes(tmp_path)
    for name in ("gone.json", "gone.xml"):
        with pytest.raises(UserError, match="FileNotFoundError"):
            read_boxes(tmp_path / name)
    with pytest.raises(UserError, match=r"expected a COCO \.json"):
        read_boxes(tmp_path / "boxes.csv")
    for folder in ("a", "b"):
        _xml(tmp_path / folder / "1.xml", _object("cat", 1, 1, 2, 2))
    with pytest.raises(UserError, match=r"two files are named 1\.xml"):
        read_boxes(tmp_path)


def test_real_coco_annotations() -> None:
    data = Path(os.environ.get("FLSL_JAX_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "coco-mini" / "annotations" / "instances_val.json"
    if not path.exists():
        pytest.skip(f"no coco-mini in {data}; set FLSL_JAX_TEST_DATA")
    content = json.loads(path.read_text())
    annotations = read_coco(path)
    assert len(annotations.class_names) == 80
    crowds = sum(item["iscrowd"] for item in content["annotations"])
    assert sum(len(boxes.labels) for boxes in annotations.boxes.values()) == len(content["annotations"]) - crowds
    names = {item["id"]: item["name"] for item in content["categories"]}
    for image in content["images"]:
        boxes = annotations.boxes[image["file_name"]]
        listed = [item for item in content["annotations"] if item["image_id"] == image["id"] and not item["iscrowd"]]
        assert [annotations.class_names[label] for label in boxes.labels] == [
            names[item["category_id"]] for item in listed
        ]
        np.testing.assert_allclose(
            boxes.xyxy[:, 2:] - boxes.xyxy[:, :2],
            np.array([item["bbox"][2:] for item in listed]).reshape(-1, 2),
            atol=0.02,  # COCO rounds to 0.01 pixels, so a box may reach beyond its image by as much and be clipped
        )


@settings(deadline=None, max_examples=25)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(12, 64), st.data())
def test_a_painted_box_is_found_where_the_mapped_box_says(
    width: int, height: int, size: int, data: st.DataObject
) -> None:
    x0, y0 = data.draw(st.integers(0, width - 10)), data.draw(st.integers(0, height - 10))
    x1, y1 = data.draw(st.integers(x0 + 8, width)), data.draw(st.integers(y0 + 8, height))
    # The box is where a column stripe (red) and a row stripe (green) cross: each side is seen whatever is left of the other.
    image = np.zeros((height, width, 3), np.uint8)
    image[:, x0:x1, 0] = 255
    image[y0:y1, :, 1] = 255
    transform = ResizeCrop(size)
    result = transform.image(image)
    boxes = transform.boxes(_boxes((x0, y0, x1, y1)), width=width, height=height)
    assert result.shape == (size, size, 3)
    columns, rows = result[0, :, 0] > 127, result[:, 0, 1] > 127
    if not boxes.labels.size:
        assert not (columns.any() and rows.any())
        return
    for bright, (low, high) in ((columns, boxes.xyxy[0, [0, 2]]), (rows, boxes.xyxy[0, [1, 3]])):
        places = np.flatnonzero(bright)
        if high - low > 2:  # thinner remains of a cropped box may lie below one half everywhere
            assert places.size
        if places.size:
            assert abs(places[0] - low) <= 1
            assert abs(places[-1] + 1 - high) <= 1


def test_boxes_of_a_landscape_image_by_hand() -> None:
    # 80×40 to a short side of 20: 40×20, of which the columns 10 to 30 stay.
    boxes = _boxes((0, 0, 80, 40), (30, 10, 50, 20), (0, 0, 20, 40), (60, 8, 80, 9), (10, 0, 24, 40))
    moved = ResizeCrop(20).boxes(boxes, width=80, height=40)
    np.testing.assert_array_equal(moved.xyxy, [[0, 0, 20, 20], [5, 5, 15, 10], [0, 0, 2, 20]])
    np.testing.assert_array_equal(moved.labels, [0, 1, 4])


def test_an_image_of_the_right_size_is_left_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    boxes = _boxes((1, 2, 3, 4), (0, 0, 24, 24))
    np.testing.assert_array_equal(ResizeCrop(24).image(image), image)
    np.testing.assert_array_equal(ResizeCrop(24).boxes(boxes, width=24, height=24).xyxy, boxes.xyxy)


def test_a_box_may_reach_beyond_its_image_by_rounding_alone() -> None:
    boxes = Boxes(xyxy=np.float32([[0, 0, 9, 9], [2, 1, 21.5, 11.5]]), labels=np.array([0, 1]))
    boxes.require_inside(width=20, height=10, name="photo")
    with pytest.raises(UserError, match=r"photo: a box reaches to \(21\.5, 11\.5\) in an image of 19×10 pixels"):
        boxes.require_inside(width=19, height=10, name="photo")
