"""Pairs with key points: the layout of SPair-71k and everything that may be wrong in it, and pairs of scenes."""

from pathlib import Path

import numpy as np
import pytest

from flsl_jax.config import KeypointSourceConfig
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.keypoints import open_keypoints
from flsl_jax.errors import UserError
from tests.spair_layout import two_categories, write_pair

CATS = {"category": "cat", "images": ("a.jpg", "b.jpg"), "box": (4, 4, 24, 20), "size": (32, 32)}
ONE = ([[1, 2]], [[3, 4]])


def _open(root: Path, **keys):
    return open_keypoints(KeypointSourceConfig(root=str(root), **keys))


def test_pairs_are_read_as_they_are_annotated(tmp_path: Path) -> None:
    source = _open(two_categories(tmp_path))
    cats, cows = source.pairs
    assert (cats.category, cats.source, cats.target) == ("cat", "cat/a.jpg", "cat/b.jpg")
    np.testing.assert_array_equal(cats.source_points, [[2, 2], [10, 20], [26, 7], [8, 8]])
    np.testing.assert_array_equal(cows.target_points, [[14, 12]])
    assert (cats.target_size, cats.longest) == ((32, 32), 20)
    assert source.image("cow/a.jpg").shape == (32, 32, 3)


def test_categories_splits_limits_and_lists_choose_pairs(tmp_path: Path) -> None:
    root = two_categories(tmp_path)
    for number in (3, 4):
        write_pair(root, number, points=ONE, split="trn", **CATS)
    write_pair(root, 5, points=ONE, **CATS)
    (root / "Layout/small").mkdir()
    (root / "Layout/small/test.txt").write_text("000005-a-b:cat\n")
    assert [pair.name[:6] for pair in _open(root).pairs] == ["000001", "000002", "000005"]
    assert [pair.name[:6] for pair in _open(root, layout="small").pairs] == ["000005"]
    assert [pair.name[:6] for pair in _open(root, limit=1).pairs] == ["000001", "000002"]
    assert [pair.name[:6] for pair in _open(root, categories=("cow",)).pairs] == ["000002"]
    assert len(_open(root, split="train").pairs) == len(_open(root, split="trn").pairs) == 2
    (root / "Layout/large/test.txt").unlink()
    assert len(_open(root, layout="").pairs) == 3


def test_names_without_colons_are_found(tmp_path: Path) -> None:
    root = two_categories(tmp_path)
    for path in (root / "PairAnnotation/test").iterdir():
        path.rename(path.with_name(path.name.replace(":", "_")))
    assert [pair.category for pair in _open(root).pairs] == ["cat", "cow"]
    assert [pair.category for pair in _open(root, categories=("cow",)).pairs] == ["cow"]


def test_pairs_without_points_are_left_out(tmp_path: Path) -> None:
    root = two_categories(tmp_path)
    write_pair(root, 3, points=([], []), **CATS)
    assert len(_open(root).pairs) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": ([[1, 2], [3, 4]], [[3, 4]])}, "src_kps has 2 points and trg_kps 1"),
        ({"points": ([[1, 32]], [[3, 4]])}, r"key point \[1.0, 32.0\] is not in cat/a.jpg, which is 32×32"),
        ({"points": ([[1, 2]], [[-1, 4]])}, r"key point \[-1.0, 4.0\] is not in cat/b.jpg"),
        ({"points": ([[1, float("nan")]], [[1, 4]])}, r"key point \[1.0, nan\] is not in"),
        (
            {"points": ([[1, 2, 0], [1, 2, 0]], [[1, 4, 0], [1, 2, 0]])},
            "not an annotation of SPair-71k .*pairs of numbers",
        ),
        ({"points": ([["left", 2]], [[1, 4]])}, "not an annotation of SPair-71k"),
        ({"box": (24, 4, 4, 20)}, "trg_bndbox is .* expected"),
        ({"box": (4, 4, 24)}, "not an annotation of SPair-71k"),
        ({"images": ("a.jpg", "a.jpg")}, "one image twice, cat/a.jpg"),
        ({"images": ("a.jpg", "c.jpg")}, "cat/c.jpg is missing, which pair .* names"),
        ({"size": (31, 32)}, "is 32×32 .upright., and 31×32 in pair"),
        ({"trg_kps": None}, "not an annotation of SPair-71k .KeyError: 'trg_kps'"),
        ({"src_kps": None, "trg_kps": None, "kps": {}}, "not an annotation"),
    ],
    ids=str,
)
def test_wrong_annotations_are_one_line(tmp_path: Path, changes, message: str) -> None:
    root = two_categories(tmp_path)
    write_pair(root, 9, **{"points": ONE, **CATS, **changes})
    with pytest.raises(UserError, match=message) as caught:
        _open(root)
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; expected the layout of SPair-71k"):
        _open(tmp_path)
    root = two_categories(tmp_path)
    with pytest.raises(UserError, match="PairAnnotation/val is not a folder"):
        _open(root, split="val")
    with pytest.raises(UserError, match=r"huge/test.txt cannot be read .* set layout to large or small"):
        _open(root, layout="huge")
    with pytest.raises(UserError, match=r"category 'cwo' has no pair here; did you mean \"cow\"\?"):
        _open(root, categories=("cwo",))
    (root / "PairAnnotation/test/000002-a-b:cow.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"1 of its 2 pairs are not in .* such as 000002-a-b:cow\.json"):
        _open(root)
    (root / "PairAnnotation/test/000001-a-b:cat.json").write_text("<html>")
    with pytest.raises(UserError, match=r"000001-a-b:cat\.json: not an annotation of SPair-71k .JSONDecodeError"):
        _open(root, layout="")
    (root / "Layout/large/test.txt").write_text("")
    with pytest.raises(UserError, match="names no pair"):
        _open(root)


def test_points_of_scenes_lie_on_one_class_and_turn_with_it() -> None:
    config = KeypointSourceConfig(name="scenes", count=10, scene_size=64, split="val")
    source, scenes = open_keypoints(config), Scenes(count=10, size=64, split="val")
    index_of = {scenes.name_of(index): index for index in range(10)}
    for pair in source.pairs:
        label = 1 + scenes.class_names.index(pair.category)
        for name, points in ((pair.source, pair.source_points), (pair.target, pair.target_points)):
            columns, rows = np.round(points).astype(int).T
            assert (scenes.masks(index_of[name]).classes[rows, columns] == label).all()
        # One place and another keep their distance up to one factor: objects differ by a turn, a size and a place.
        own, other = (points - points[0] for points in (pair.source_points, pair.target_points))
        if len(own) > 2:
            ratios = np.linalg.norm(other[1:], axis=1) / np.linalg.norm(own[1:], axis=1)
            np.testing.assert_allclose(ratios, ratios[0], rtol=1e-9)
    assert len({pair.category for pair in source.pairs}) > 2


def test_scenes_too_few_for_a_pair_and_unknown_classes_are_refused() -> None:
    with pytest.raises(UserError, match="raise count"):
        open_keypoints(KeypointSourceConfig(name="scenes", count=1, scene_size=64))
    with pytest.raises(UserError, match=r"category 'dotted rings' has no pair here; did you mean \"dotted ring\"\?"):
        open_keypoints(KeypointSourceConfig(name="scenes", count=40, scene_size=64, categories=("dotted rings",)))
