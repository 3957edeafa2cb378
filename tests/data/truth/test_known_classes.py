"""COCO-Stuff's 27 classes, and Cityscapes' layout with its 27 or 19."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.truth.known_classes import KNOWN_CLASSES
from flsl_jax.data.truth.mask_classes import MaskClasses
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError

_STEM = "ulm_000000_000019"


def _cityscapes(root: Path, ids: np.ndarray, *, kind: str = "gtFine") -> MaskedSourceConfig:
    """One image in Cityscapes' layout, with the files that lie beside its mask."""
    images, masks = root / "leftImg8bit/val/ulm", root / f"{kind}/val/ulm"
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(images / f"{_STEM}_leftImg8bit.png")
    for end in ("labelIds", "instanceIds", "color"):
        Image.fromarray(ids).save(masks / f"{_STEM}_{kind}_{end}.png")
    (masks / f"{_STEM}_{kind}_polygons.json").write_text("{}")
    return MaskedSourceConfig(name="cityscapes", images=str(images.parent), masks=str(masks.parent))


@pytest.mark.parametrize("kind", ["gtFine", "gtCoarse"])
def test_cityscapes_has_19_classes_or_27(tmp_path: Path, kind: str) -> None:
    """Void, road, parking (of the 27 alone), the licence plate that is void, static, bicycle."""
    config = _cityscapes(tmp_path, np.array([[0, 7, 9], [255, 4, 33]], np.uint8), kind=kind)
    source = open_masked(config)
    assert (source.num_classes, source.class_names[0], source.class_names[18]) == (19, "road", "bicycle")
    np.testing.assert_array_equal(source[0].mask, [[-1, 0, -1], [-1, -1, 18]])
    every = open_masked(dataclasses.replace(config, classes="cityscapes27"))
    assert every.num_classes == 27
    np.testing.assert_array_equal(every[0].mask, [[-1, 0, 2], [-1, -1, 26]])
    (tmp_path / "names.txt").write_text(f"ulm/{_STEM}_leftImg8bit\n")
    assert len(open_masked(dataclasses.replace(config, names=str(tmp_path / "names.txt")))) == 1


def test_cityscapes_that_is_something_else_is_one_line(tmp_path: Path) -> None:
    config = _cityscapes(tmp_path, np.array([[34, 8]], np.uint8))
    with pytest.raises(UserError, match="set name=cityscapes for its layout"):
        open_masked(dataclasses.replace(config, name="folder"))
    with pytest.raises(
        UserError, match=r"no file ends in _gtFine_labelIds\.png or .*; name a split of Cityscapes' gtFine"
    ):
        open_masked(dataclasses.replace(config, masks=config.images))
    with pytest.raises(UserError, match="an id that is not a class, such as 34"):
        open_masked(config)[0]
    beside = tmp_path / f"gtFine/val/ulm/{_STEM}_gtCoarse_labelIds.png"
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(beside)
    with pytest.raises(UserError, match="are of one image; name gtFine or gtCoarse alone"):
        open_masked(config)
    beside.rename(beside.with_name("ulm_000000_000020_gtFine_labelIds.png"))
    with pytest.raises(UserError, match=r"such as ulm/ulm_000000_000020_gtFine_labelIds\.png; name the same split"):
        open_masked(config)


def _coco(root: Path, ids: np.ndarray, *, classes: str = "cocostuff27") -> MaskedSourceConfig:
    for folder, pixels, suffix in (("images", np.zeros((*ids.shape, 3), np.uint8), "jpg"), ("maps", ids, "png")):
        (root / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(root / folder / f"000000000139.{suffix}")
    return MaskedSourceConfig(images=str(root / "images"), masks=str(root / "maps"), classes=classes)


def test_coco_stuff_has_27_classes_of_182_ids(tmp_path: Path) -> None:
    """Bicycle and truck are vehicles, banner and blanket textile, wood is solid; 255 is unlabelled."""
    source = open_masked(_coco(tmp_path, np.array([[0, 1, 7], [91, 92, 181], [255, 0, 90]], np.uint8)))
    assert source.num_classes == len(set(source.class_names)) == 27
    found = [[source.class_names[label] if label >= 0 else "" for label in row] for row in source[0].mask]
    assert found == [["person", "vehicle", "vehicle"], ["textile", "textile", "solid"], ["", "person", "indoor"]]


def test_coco_stuffs_ids_are_divided_as_its_supercategories_are() -> None:
    """12 classes of the 91 ids of things, 15 of stuff; how many ids each has."""
    classes = MaskClasses(KNOWN_CLASSES["cocostuff27"], ignore=(255,), merged=True)
    labels = classes.labels(np.arange(182)[None], file="")[0]
    assert set(labels[:91]) == set(range(12))
    assert set(labels[91:]) == set(range(12, 27))
    assert np.bincount(labels[:91]).tolist() == [1, 8, 6, 10, 8, 10, 8, 10, 10, 6, 6, 8]


def test_ids_and_sets_that_there_are_not_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an id that is not a class, such as 182"):
        open_masked(_coco(tmp_path / "a", np.full((3, 3), 182, np.uint8)))[0]
    with pytest.raises(UserError, match="or one of cocostuff27, cityscapes27, cityscapes19"):
        open_masked(_coco(tmp_path / "b", np.zeros((3, 3), np.uint8), classes="cocostuff-27"))
    every = _cityscapes(tmp_path, np.array([[7, 8]], np.uint8))
    with pytest.raises(UserError, match="all 19 classes are ignored"):
        open_masked(dataclasses.replace(every, ignore=tuple(range(34))))
