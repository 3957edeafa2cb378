"""A root of another kind than `name` says is refused in one line that names its kind."""

import re
import tarfile

import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.sources.kinds import kind_of
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("video", "a.tgz", "a.tgz is of the kind tar by its name, .*; set name=tar"),
        ("shards", "clip.mp4", "clip.mp4 is of the kind video by its name, .*; set name=video"),
        ("huggingface", "a.png", "a.png is an image, and name=huggingface takes .*; set name=auto"),
        ("video", "list.csv", "list.csv is of the kind list"),
        ("tar", "a.png", "a.png is an image"),
        ("list", "photos", "photos is a folder of images, and name=list takes the file that lists the images; set name=folder"),
    ],
)  # fmt: skip
def test_a_root_of_another_kind_is_refused(name, root, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for file in ("list.csv", "a.tgz", "clip.mp4", "a.png", "photos/1.jpg"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=f"^{message}"):
        open_source(SourceConfig(name=name, root=root))


@pytest.mark.parametrize(
    ("root", "kind", "count"),
    [
        ("list.csv", "a list of images .data.name=list.", 2),
        ("tars", "tar files .data.name=tar.", 3),
        ("photos/1.png", "an image .data.name=auto.", 1),
    ],
)
def test_the_default_reads_a_root_that_is_no_folder_of_images_as_what_it_is(root, kind, count, tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    (tmp_path / "tars").mkdir()
    for number in (1, 2):
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "list.csv").write_text("path\nphotos/1.png\nphotos/2.png\n")
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        for number in range(3):
            tar.add(tmp_path / "photos" / "1.png", arcname=f"{number}.png")
    with caplog.at_level("INFO"):
        assert len(open_source(SourceConfig(root=str(tmp_path / root)))) == count
    assert re.search(f"{root} is read as {kind}", caplog.messages[0])


def test_the_default_takes_the_images_of_a_folder_whatever_lies_beside_them(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    for name in ("manifest.json", "dataset_dict.json", "a.tar", "clip.mp4"):
        (tmp_path / name).write_text("{}")
    with caplog.at_level("INFO"):
        assert len(open_source(SourceConfig(root=str(tmp_path)))) == 1
    assert not any("is read as" in message for message in caplog.messages)


def test_a_file_whose_name_says_nothing_is_what_the_config_says(tmp_path):
    (tmp_path / "shard.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"shard\.bin is no tar file"):
        open_source(SourceConfig(name="tar", root=str(tmp_path / "shard.bin")))
    with pytest.raises(
        UserError, match=r"shard\.bin is no folder; name the folder that python -m flsl_jax\.prepare wrote"
    ):
        open_source(SourceConfig(name="shards", root=str(tmp_path / "shard.bin")))


def test_photos_beside_any_state_json_are_a_folder_of_images(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert kind_of(str(tmp_path)) == "folder"
    (tmp_path / "dataset_info.json").write_text("{}")
    assert kind_of(str(tmp_path)) == "huggingface"
