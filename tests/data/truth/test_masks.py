"""Images with masks: every layout gives the same dense labels, and whatever does not belong together is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.mask_classes import MaskClasses, read_class_names
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from tests.shared_data import shared_data

IDS = np.array([[0, 3, 3], [7, 255, 0]], np.uint8)


def _save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def _photo(height: int = 2, width: int = 3, *, level: int = 9) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def _folders(root: Path, *, mask: np.ndarray = IDS, **config) -> MaskedSourceConfig:
    _save(root / "images/a/1.png", _photo())
    _save(root / "masks/a/1.png", mask)
    return MaskedSourceConfig(images=str(root / "images"), masks=str(root / "masks"), **config)


def _classes(root: Path, content: object) -> str:
    (root / "classes.json").write_text(json.dumps(content))
    return str(root / "classes.json")


def test_ids_become_dense_labels_in_their_order(tmp_path: Path) -> None:
    classes = _classes(tmp_path, {"7": "dog", "0": "sky", "3": "cat", "9": "fly"})
    source = open_masked(_folders(tmp_path, classes=classes))
    assert (source.class_names, source.num_classes) == (("sky", "cat", "dog", "fly"), 4)
    record = source[0]
    assert record.name == "a/1.png"
    assert record.mask.dtype == np.int32
    np.testing.assert_array_equal(record.mask, [[0, 1, 1], [2, -1, 0]])
    np.testing.assert_array_equal(record.image, _photo())


def test_ade20k_ignores_zero_and_shifts_the_others(tmp_path: Path) -> None:
    listing = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t.2\t9\t9\t1\twall \n2\t.1\t9\t9\t1\tbuilding, edifice\n"
    (tmp_path / "objectInfo150.txt").write_text(listing)
    mask = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    source = open_masked(_folders(tmp_path, mask=mask, ignore=(0,), classes=str(tmp_path / "objectInfo150.txt")))
    assert source.class_names == ("wall", "building, edifice")
    np.testing.assert_array_equal(source[0].mask, mask.astype(int) - 1)


def test_voc_palettes_keep_their_ids_and_a_list_chooses_images(tmp_path: Path) -> None:
    for number in range(3):
        _save(tmp_path / f"JPEGImages/2007_{number}.jpg", _photo(level=number))
    for number in range(2):
        indexed = Image.fromarray(np.full((2, 3), 20 - number, np.uint8))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        indexed.putpalette(list(np.random.default_rng(0).integers(0, 256, 768)))
        indexed.save(tmp_path / f"SegmentationClass/2007_{number}.png")
    (tmp_path / "val.txt").write_text("2007_1\n2007_0\n")
    config = MaskedSourceConfig(images=str(tmp_path / "JPEGImages"), masks=str(tmp_path / "SegmentationClass"))
    assert [open_masked(config)[i].name for i in range(2)] == ["2007_0.jpg", "2007_1.jpg"]
    chosen = open_masked(_replace(config, names=str(tmp_path / "val.txt")))
    assert [int(chosen[i].mask[0, 0]) for i in range(len(chosen))] == [19, 20]
    assert chosen.num_classes == 255
    assert len(open_masked(_replace(config, names=str(tmp_path / "val.txt"), limit=1))) == 1
    (tmp_path / "val.txt").write_text("2007_1\n2007_2\n")
    with pytest.raises(UserError, match=r"1 of its 2 names have no image with a mask, such as \['2007_2'\]"):
        open_masked(_replace(config, names=str(tmp_path / "val.txt")))


def _replace(config: MaskedSourceConfig, **changes) -> MaskedSourceConfig:
    return MaskedSourceConfig(**{**vars(config), **changes})


def _panoptic(root: Path, *, segments: list[tuple[int, int]]) -> MaskedSourceConfig:
    numbers = np.array([[0, 3, 3], [70000, 515, 0]])
    _save(root / "images/x.png", _photo())
    _save(root / "images/y.png", _photo())
    _save(root / "panoptic/x.png", (numbers[..., None] // [1, 256, 65536] % 256).astype(np.uint8))
    content = {
        "images": [{"id": 5, "file_name": "x.png"}, {"id": 6, "file_name": "y.png"}],
        "categories": [{"id": 200, "name": "rug"}, {"id": 1, "name": "person"}, {"id": 70, "name": "toilet"}],
        "annotations": [
            {
                "image_id": 5,
                "file_name": "x.png",
                "segments_info": [{"id": number, "category_id": category} for number, category in segments],
            }
        ],
    }
    (root / "panoptic.json").write_text(json.dumps(content))
    return MaskedSourceConfig(
        name="panoptic",
        images=str(root / "images"),
        masks=str(root / "panoptic"),
        annotations=str(root / "panoptic.json"),
    )


def test_panoptic_segments_become_labels_of_their_categories(tmp_path: Path) -> None:
    source = open_masked(_panoptic(tmp_path, segments=[(3, 200), (70000, 1), (515, 200)]))
    assert source.class_names == ("person", "toilet", "rug")
    assert len(source) == 1
    np.testing.assert_array_equal(source[0].mask, [[-1, 2, 2], [0, 2, -1]])


@pytest.mark.parametrize("name", ["./x.png", "val2017/x.png", "/data/val2017/x.png", "D:\\val\\x.png", "x"])
def test_panoptic_names_are_of_their_image_however_they_are_spelled(tmp_path: Path, name: str) -> None:
    config = _panoptic(tmp_path, segments=[(3, 200), (70000, 1), (515, 200)])
    path = Path(config.annotations)
    path.write_text(
        path.read_text().replace('"id": 5, "file_name": "x.png"', f'"id": 5, "file_name": {json.dumps(name)}')
    )
    source = open_masked(config)
    assert source[0].name == "x.png"
    np.testing.assert_array_equal(source[0].mask, [[-1, 2, 2], [0, 2, -1]])


def test_panoptic_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    config = _panoptic(tmp_path, segments=[(3, 200), (70000, 1)])
    with pytest.raises(UserError, match=r"x\.png: segment 515 is not in its annotation"):
        open_masked(config)[0]
    with pytest.raises(UserError, match="category_id 8 is not among"):
        open_masked(_panoptic(tmp_path / "other", segments=[(3, 8)]))
    (tmp_path / "panoptic/x.png").unlink()
    with pytest.raises(UserError, match=r"1 of its PNGs are not in .*x\.png"):
        open_masked(config)
    Path(config.annotations).write_text('{"images": []}')
    with pytest.raises(UserError, match=r"panoptic\.json: not a COCO panoptic file"):
        open_masked(config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"categories": [{"id": 10**12, "name": "rug"}]}, "expected category ids from 0 to 65535"),
        ({"categories": [{"id": -1, "name": "rug"}]}, "expected category ids from 0 to 65535"),
        ({"images": [{"id": [5], "file_name": "x.png"}]}, "not a COCO panoptic file"),
        ({"annotations": [{"image_id": {}, "file_name": "x.png", "segments_info": []}]}, "not a COCO panoptic file"),
    ],
)
def test_panoptic_ids_of_a_wrong_type_or_size_are_one_line(tmp_path: Path, change: dict, complaint: str) -> None:
    config = _panoptic(tmp_path, segments=[(3, 200)])
    path = Path(config.annotations)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=complaint) as error:
        open_masked(config)
    assert "\n" not in str(error.value)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        open_masked(config)


def test_lists_and_class_files_with_a_byte_order_mark_pass(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"1": "person"}).encode())
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + b"Idx\tName\n1\tperson\n")
    assert read_class_names(tmp_path / "list.json") == read_class_names(tmp_path / "list.txt") == {1: "person"}
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfa/1\n")
    assert len(open_masked(_replace(_folders(tmp_path), names=str(tmp_path / "names.txt")))) == 1


def test_scenes_have_the_background_as_a_class() -> None:
    config = MaskedSourceConfig(name="scenes", count=4, scene_size=32, split="val", limit=3)
    source, scenes = open_masked(config), Scenes(count=4, size=32, split="val")
    assert (len(source), source.class_names) == (3, ("background", *scenes.class_names))
    np.testing.assert_array_equal(source[2].mask, scenes.masks(2).classes)
    np.testing.assert_array_equal(source[2].image, scenes[2].image)
    without = open_masked(_replace(config, ignore=(0,)))
    np.testing.assert_array_equal(without[2].mask, scenes.masks(2).classes.astype(int) - 1)


def test_a_turned_photo_and_a_transparent_one_have_the_size_of_their_upright_masks(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _save(tmp_path / "images/turned.jpg", _photo(4, 8), exif=exif)
    _save(tmp_path / "images/clear.png", np.zeros((4, 8, 4), np.uint8))
    _save(tmp_path / "masks/turned.png", np.zeros((8, 4), np.uint8))
    _save(tmp_path / "masks/clear.png", np.zeros((4, 8), np.uint8))
    source = open_masked(MaskedSourceConfig(images=str(tmp_path / "images"), masks=str(tmp_path / "masks")))
    for record in (source[0], source[1]):
        assert record.image.shape[:2] == record.mask.shape
    assert source[0].image.min() == 255


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.zeros((3, 2), np.uint8), r"masks/a/1\.png is 2×3, its image .*images/a/1\.png 3×2"),
        (
            _photo(),
            r"masks/a/1\.png has pixels of mode RGB; expected a PNG with one channel .*; COCO panoptic needs name=",
        ),
    ],
)
def test_a_mask_of_another_size_or_kind_is_named_before_anything_is_read(tmp_path, mask, complaint) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        open_masked(_folders(tmp_path, mask=mask))
    assert "\n" not in str(error.value)


def test_unknown_ids_are_named(tmp_path: Path) -> None:
    source = open_masked(_folders(tmp_path, classes=_classes(tmp_path, ["sky", "b", "c", "d"])))
    with pytest.raises(UserError, match=r"masks/a/1\.png: 1 pixels have an id that is not a class, such as 7"):
        source[0]
    source = open_masked(_folders(tmp_path, classes=_classes(tmp_path, ["sky", "b", "c", "d"]), ignore=(7,)))
    with pytest.raises(UserError, match="such as 255"):
        source[0]


def test_broken_files_are_named(tmp_path: Path) -> None:
    config = _folders(tmp_path, mask=np.random.default_rng(0).integers(0, 9, (2, 3)).astype(np.uint8))
    mask = tmp_path / "masks/a/1.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"masks/a/1\.png cannot be read"):
        open_masked(config)[0]
    mask.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"masks/a/1\.png cannot be read"):
        open_masked(config)
    mask.write_bytes(whole)
    image = tmp_path / "images/a/1.png"
    image.write_bytes(image.read_bytes()[:50])
    with pytest.raises(UserError, match=r"images/a/1\.png cannot be read"):
        open_masked(config)[0]


def test_what_has_no_partner_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = _folders(tmp_path)
    _save(tmp_path / "images/b.png", _photo())
    with caplog.at_level("WARNING"):
        assert len(open_masked(config)) == 1
    assert "left out 1 images without a mask" in caplog.text
    _save(tmp_path / "masks/c.png", IDS)
    _save(tmp_path / "masks/d.png", IDS)
    with pytest.raises(UserError, match=r"2 have no image in .*images, such as c\.png"):
        open_masked(config)
    _save(tmp_path / "images/a/1.jpg", _photo())
    with pytest.raises(UserError, match="two images are named a/1"):
        open_masked(config)


def test_folders_without_masks_and_empty_settings_are_refused(tmp_path: Path) -> None:
    config = _folders(tmp_path)
    with pytest.raises(UserError, match="holds no image file"):
        open_masked(_replace(config, masks=str(_made(tmp_path / "empty"))))
    _save(tmp_path / "jpegs/1.jpg", _photo())
    with pytest.raises(UserError, match=r"no \.png here has the name of an image"):
        open_masked(_replace(config, masks=str(tmp_path / "jpegs")))
    with pytest.raises(UserError, match="masks is empty; set images, masks"):
        open_masked(_replace(config, masks=""))
    with pytest.raises(UserError, match="annotations is empty"):
        open_masked(_replace(config, name="panoptic"))
    with pytest.raises(UserError, match="all 1 classes are ignored"):
        MaskClasses({3: "a"}, ignore=(3,))


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("text", ["{", '{"a": "b"}', "3", "{}", '{"-1": "x"}', '{"70000": "x"}'])
def test_a_class_file_that_names_no_ids_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=r"classes .*c\.json: expected"):
        read_class_names(tmp_path / "c.json")
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UserError, match=r"classes .*c\.txt: expected"):
        read_class_names(tmp_path / "c.txt")


def test_semantic_and_panoptic_files_of_coco_agree() -> None:
    root = shared_data("coco-mini")
    both = [
        open_masked(
            MaskedSourceConfig(
                name=name,
                images=str(root / "images/val"),
                masks=str(root / folder / "val"),
                annotations=str(root / "annotations/panoptic_val.json"),
                classes=str(root / "annotations/classes.json"),
                ignore=(0,),
                limit=8,
            )
        )
        for name, folder in (("folder", "semantic"), ("panoptic", "panoptic"))
    ]
    assert both[0].class_names == both[1].class_names
    panoptic = {record.name: record.mask for record in (both[1][i] for i in range(8))}
    for record in (both[0][i] for i in range(8)):
        np.testing.assert_array_equal(panoptic[record.name], record.mask)


def test_a_digest_is_of_names_and_classes_and_not_of_the_place(tmp_path: Path) -> None:
    def digest(root: str = "a", *, image: str = "1.png", classes: object = None, **config) -> str:
        folder = tmp_path / root
        _save(folder / "images" / image, _photo())
        _save(folder / "masks" / image, IDS)
        names = _classes(tmp_path, classes or {"0": "sky", "3": "cat", "7": "dog"})
        places = {"images": str(folder / "images"), "masks": str(folder / "masks")}
        return open_masked(MaskedSourceConfig(**places, classes=names, **config)).digest

    first = digest()
    assert first == digest("moved")
    others = [
        digest("renamed", image="2.png"),
        digest(ignore=(255, 3)),
        digest(classes={"0": "sky", "3": "cat", "7": "cow"}),
        digest(classes={"0": "sky", "3": "cat", "8": "dog"}),  # the same names of other ids
        digest(image="b.png"),  # a second image in the first folder
    ]
    assert len({first, *others}) == 6
    assert digest(limit=1) == first


def test_a_digest_tells_coarse_masks_segments_and_scenes_apart(tmp_path: Path) -> None:
    _save(tmp_path / "images/1.png", _photo())
    _save(tmp_path / "masks/1.png", np.full((2, 3, 3), [5, 0, 0], np.uint8))

    def panoptic(category: int) -> str:
        segment = {"id": 5, "category_id": category}
        content = {
            "images": [{"id": 1, "file_name": "1.png"}],
            "categories": [{"id": number, "name": str(number)} for number in (1, 2)],
            "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [segment]}],
        }
        (tmp_path / "panoptic.json").write_text(json.dumps(content))
        places = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
        return open_masked(
            MaskedSourceConfig(name="panoptic", annotations=str(tmp_path / "panoptic.json"), **places)
        ).digest

    assert panoptic(1) == panoptic(1) != panoptic(2)
    places = {"images": str(tmp_path / "leftImg8bit"), "name": "cityscapes", "classes": "cityscapes19"}
    _save(tmp_path / "leftImg8bit/x/x_1_leftImg8bit.png", _photo())
    found = set()
    for kind in ("gtFine", "gtCoarse"):
        _save(tmp_path / kind / f"x/x_1_{kind}_labelIds.png", np.full((2, 3), 7, np.uint8))
        found.add(open_masked(MaskedSourceConfig(masks=str(tmp_path / kind), **places)).digest)
    assert len(found) == 2
    scenes = {"name": "scenes", "count": 4, "scene_size": 32, "split": "train"}
    changes = [{}, {"count": 5}, {"scene_size": 48}, {"split": "val"}, {"scene_kind": "textures"}, {"ignore": (1,)}]
    assert len({open_masked(MaskedSourceConfig(**scenes | change)).digest for change in changes}) == len(changes)
    assert (
        open_masked(MaskedSourceConfig(**scenes | {"count": 9, "limit": 4})).digest
        == open_masked(MaskedSourceConfig(**scenes)).digest
    )
