"""Images with depth maps: every kind of file, lists of pairs, and everything that may be wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import DepthSourceConfig
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.depths import open_depths, read_depth
from flsl_jax.errors import UserError

MILLIMETRES = np.array([[0, 500, 1500], [65535, 1, 2000]], np.uint16)
METRES = np.array([[0, 0.5, 1.5], [65.535, 0.001, 2]], np.float32)


def _image(path: Path, width: int = 3, height: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def _depth(path: Path, values: np.ndarray = MILLIMETRES) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def _config(root: Path, **keys) -> DepthSourceConfig:
    return DepthSourceConfig(images=str(root / "i"), depths=str(root / "d"), **keys)


def test_whole_numbers_are_divided_by_the_scale_and_floats_are_metres(tmp_path: Path) -> None:
    _depth(tmp_path / "a.png")
    Image.fromarray(METRES).save(tmp_path / "a.tif")
    np.save(tmp_path / "a.npy", METRES[None])
    np.save(tmp_path / "whole.npy", MILLIMETRES)
    np.savez(tmp_path / "one.npz", METRES)
    np.savez(tmp_path / "named.npz", depth=METRES.astype(np.float64), other=np.zeros(3))
    for name in ("a.png", "a.tif", "a.npy", "whole.npy", "one.npz", "named.npz"):
        np.testing.assert_allclose(read_depth(tmp_path / name, scale=1000.0), METRES, rtol=1e-6)
    np.testing.assert_allclose(read_depth(tmp_path / "a.png", scale=256.0), MILLIMETRES / np.float32(256), rtol=1e-6)
    np.testing.assert_allclose(read_depth(tmp_path / "a.npy", scale=256.0), METRES, rtol=1e-6)


def test_what_is_missing_is_0(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[np.nan, np.inf], [-1.0, 2.0]]))
    np.testing.assert_array_equal(read_depth(tmp_path / "a.npy", scale=1.0), [[0, 0], [0, 2]])


def test_files_of_one_name_belong_together_in_folders_of_their_own_or_in_one(tmp_path: Path) -> None:
    for name in ("b/1", "a/2"):
        _image(tmp_path / f"i/{name}.jpg")
        _depth(tmp_path / f"d/{name}.png")
    _image(tmp_path / "i/lonely.jpg")
    source = open_depths(_config(tmp_path))
    assert [record.name for record in (source[0], source[1])] == [f"{tmp_path}/i/a/2.jpg", f"{tmp_path}/i/b/1.jpg"]
    np.testing.assert_allclose(source[0].mask, METRES, rtol=1e-6)
    assert (len(source), source.sizes) == (2, ((2, 3),))
    assert len(open_depths(_config(tmp_path, limit=1))) == 1
    _image(tmp_path / "i/c.jpg")
    _depth(tmp_path / "i/c.png")
    together = DepthSourceConfig(images=str(tmp_path / "i"), depths=str(tmp_path / "i"))
    assert [source[0].name for source in [open_depths(together)]] == [f"{tmp_path}/i/c.jpg"]


def test_a_list_of_nyu_names_images_and_depths(tmp_path: Path) -> None:
    _image(tmp_path / "i/kitchen/rgb_1.jpg")
    _depth(tmp_path / "d/kitchen/sync_depth_1.png")
    lines = "/kitchen/rgb_1.jpg /kitchen/sync_depth_1.png 518.8579\nkitchen/rgb_1.jpg None 518.8579\n\n"
    (tmp_path / "list.txt").write_text(lines)
    source = open_depths(_config(tmp_path, names=str(tmp_path / "list.txt")))
    assert len(source) == 1
    np.testing.assert_allclose(source[0].mask, METRES, rtol=1e-6)


def _write(root: Path, kind: str) -> dict[str, str]:
    """One pair that is right, spoiled in one way; keys of the config that go with it."""
    _image(root / "i/1.jpg")
    _depth(root / "d/1.png")
    listing = {
        "a list of one column": "1.jpg\n",
        "a list of nothing": "\n",
        "a list of others": "2.jpg 2.png\n",
        "a list of no depths": "1.jpg None\n",
        "a list that is turned round": "../d/1.png ../i/1.jpg\n",
    }
    if kind in listing:
        (root / "l.txt").write_text(listing[kind])
        return {"names": str(root / "l.txt")}
    if kind == "no list":
        return {"names": str(root / "l.txt")}
    if kind == "8 bits":
        _depth(root / "d/1.png", np.zeros((2, 3), np.uint8))
    elif kind == "colour":
        _depth(root / "d/1.png", np.zeros((2, 3, 3), np.uint8))
    elif kind == "another size":
        _depth(root / "d/1.png", np.zeros((3, 2), np.uint16))
    elif kind == "broken":
        (root / "d/1.png").write_bytes(b"PNG")
    elif kind == "broken array":
        (root / "d/1.png").rename(root / "d/1.npy")
    elif kind == "objects":
        (root / "d/1.png").unlink()
        np.save(root / "d/1.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    elif kind == "three axes":
        (root / "d/1.png").unlink()
        np.save(root / "d/1.npy", np.zeros((2, 3, 3)))
    elif kind == "several arrays":
        (root / "d/1.png").unlink()
        np.savez(root / "d/1.npz", a=METRES, b=METRES)
    elif kind == "two depths":
        np.save(root / "d/1.npy", METRES)
    elif kind == "two images":
        _image(root / "i/1.png")
    elif kind == "other names":
        (root / "d/1.png").rename(root / "d/depth_1.png")
    elif kind == "no depths":
        (root / "d/1.png").unlink()
    elif kind == "no folder":
        return {"depths": str(root / "e")}
    return {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("8 bits", "1.png has pixels of mode L; expected one channel of 16 bits or of floats"),
        ("colour", "1.png has pixels of mode RGB"),
        ("another size", "d/1.png is 2×3, its image .*i/1.jpg 3×2"),
        ("broken", "d/1.png cannot be read"),
        ("broken array", "d/1.npy cannot be read"),
        ("objects", "d/1.npy cannot be read .Object arrays"),
        ("three axes", r"d/1.npy is float64 of shape \[2, 3, 3\]; expected numbers of shape \[H, W\]"),
        ("several arrays", "d/1.npz holds a, b; expected one array, or one named depth"),
        ("two depths", "1.npy and 1.png have one name"),
        ("two images", "two images are named 1;"),
        ("other names", "none of its 1 files has the name of an image of .*, such as 1.jpg; .* or give names"),
        ("no depths", "holds no depth file"),
        ("no folder", "depths .*/e is not a folder"),
        ("no list", "l.txt cannot be read .No such file"),
        ("a list of one column", "line '1.jpg' names one file; expected an image and its depth file a line"),
        ("a list of nothing", "holds no line"),
        ("a list of others", "2 of the files of its 1 lines are not there, such as .*i/2.jpg"),
        ("a list of no depths", "0 of the files of its 1 lines"),
        ("a list that is turned round", "1.jpg is neither an image nor a depth file by its name"),
    ],
)
def test_wrong_files_are_one_line(tmp_path: Path, kind: str, message: str) -> None:
    keys = _write(tmp_path, kind)
    config = DepthSourceConfig(**{"images": str(tmp_path / "i"), "depths": str(tmp_path / "d"), **keys})
    with pytest.raises(UserError, match=message) as caught:
        open_depths(config)
    assert "\n" not in str(caught.value)


def test_scenes_are_as_far_as_their_objects_are_small() -> None:
    source = open_depths(DepthSourceConfig(name="scenes", count=6, scene_size=32, split="val", limit=5))
    scenes = Scenes(count=5, size=32, split="val")
    assert (len(source), source.sizes) == (5, ((32, 32),))
    for index in range(5):
        instances, depth = scenes.masks(index).instances, source[index].mask
        assert (depth[instances == 0] == 4).all()
        for number in range(1, instances.max() + 1):
            own = np.unique(depth[instances == number])
            assert own.size <= 1
            assert ((own > 0.5 / 0.35) & (own < 0.5 / 0.17)).all()
