"""What is no image file is passed over and said, or refused by name; nothing waits for it."""

import io
import logging
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.image_files import open_image
from flsl_jax.data.images.listing import list_images, open_file, read_file
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.sources.opening import FolderSource, open_source
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import ShardSource
from flsl_jax.errors import UserError
from flsl_jax.evaluation.reading import ImageStream
from flsl_jax.pictures.images import read_images

UNUSABLE = {
    "device.png": "a device",
    "fifo.jpg": "a FIFO",
    "gone.jpg": "a link to nothing",
    "gone_folder": "a link to nothing",
    "loop.png": "a link that cannot be followed: Too many levels of symbolic links",
    "socket.png": "a socket",
}


@pytest.fixture(name="hostile")
def _hostile(tmp_path: Path) -> Path:
    """Five images among files of other kinds, hidden ones, a link to a folder, and everything in UNUSABLE."""
    root = tmp_path / "hostile"
    (root / "deep" / "er").mkdir(parents=True)
    (root / ".cache").mkdir()
    for name in ("a.png", "b.PNG", "c.jpg", "deep/d.png", "deep/er/e.png"):
        format_name = "JPEG" if name.endswith("jpg") else "PNG"
        Image.new("RGB", (24, 20), (len(name), 9, 200)).save(root / name, format_name)
    for name in ("notes.txt", "more.txt", "README", "x.xcf", ".hidden.png", ".cache/y.png"):
        (root / name).write_text("text")
    os.mkfifo(root / "fifo.jpg")
    os.mkfifo(root / "fifo")  # has not the name of an image
    (root / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "gone_folder").symlink_to(tmp_path / "nowhere")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "device.png").symlink_to("/dev/zero")
    (root / "again").symlink_to(root)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket.png"))
    return root


def test_images_are_counted_by_format_and_the_rest_with_the_reason(hostile: Path) -> None:
    listing = list_images(str(hostile))
    assert listing.paths == [b"a.png", b"b.PNG", b"c.jpg", b"deep/d.png", b"deep/er/e.png"]
    assert listing.formats == {"PNG": 4, "JPEG": 1}
    assert listing.others == {".txt": 2, ".xcf": 1, "": 2}
    assert dict(listing.unusable) == UNUSABLE
    assert str(listing) == (
        "images: 4 PNG, 1 JPEG; passed over: device.png (a device), fifo.jpg (a FIFO), gone.jpg (a link to nothing), "
        "gone_folder (a link to nothing), loop.png (a link that cannot be followed: Too many levels of symbolic links), "
        "1 more that are no files, files that are no images by their names (2 without suffix, 2 .txt, 1 .xcf), 2 hidden"
    )


def test_the_log_says_what_was_found_in_one_line(hostile: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert len(open_source(SourceConfig(root=str(hostile)))) == 5
    assert caplog.messages == [f"{hostile}: {list_images(str(hostile))}"]
    (hostile.parent / "clean").mkdir()
    Image.new("L", (2, 2)).save(hostile.parent / "clean" / "only.tif")
    assert str(list_images(str(hostile.parent / "clean"))) == "images: 1 TIFF; passed over: nothing"


@pytest.mark.parametrize("name", UNUSABLE)
def test_where_damage_is_fatal_each_kind_is_refused_by_name(hostile: Path, name: str) -> None:
    for other in UNUSABLE.keys() - {name}:
        (hostile / other).unlink()
    with pytest.raises(UserError, match=rf"hostile/{name} is {UNUSABLE[name]}.*on_corrupt=replace") as caught:
        open_source(SourceConfig(root=str(hostile), on_corrupt="fail"))
    assert "\n" not in str(caught.value)
    (hostile / name).unlink()
    assert len(open_source(SourceConfig(root=str(hostile), on_corrupt="fail"))) == 5


def test_training_preparing_evaluating_and_drawing_pass_them_over(hostile: Path, tmp_path: Path) -> None:
    source = open_source(SourceConfig(root=str(hostile)))
    (batch,) = Loader(source, batch_size=5, crop_size=8, seed=0, area=(1.0, 1.0), aspect=(1.0, 1.0)).batches(0, 1)
    assert batch.images.shape == (5, 8, 8, 3)
    assert not batch.replaced
    manifest = pack(FolderSource(hostile), tmp_path / "packed")
    assert manifest.count == len(ShardSource(tmp_path / "packed")) == 5
    assert dict(manifest.skipped) == UNUSABLE
    stream = ImageStream(source, lambda _, pixels: (pixels,), wanted=lambda _: True, lacking="nothing", lacks="nothing")
    assert sum(1 for _ in stream) == 5
    assert len(read_images(str(hostile), limit=9, size=16, multiple=8)) == 5


def test_a_file_that_is_gone_after_it_was_listed_is_left_out(hostile: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FolderSource(hostile)
    (hostile / "a.png").unlink()
    (hostile / "c.jpg").unlink()
    os.mkfifo(hostile / "c.jpg")
    loader = Loader(source, batch_size=5, crop_size=8, seed=0, area=(1.0, 1.0), aspect=(1.0, 1.0))
    (batch,) = loader.batches(0, 1)
    assert {item.record for item in batch.replaced} == {0, 2}
    stream = ImageStream(source, lambda _, pixels: (pixels,), wanted=lambda _: True, lacking="nothing", lacks="nothing")
    assert sum(1 for _ in stream) == 3
    assert "c.jpg is a FIFO, not an image" in caplog.text
    options = {"wanted": lambda _: True, "lacking": "nothing", "lacks": "nothing", "on_corrupt": "fail"}
    with pytest.raises(UserError, match=r"a\.png.*repair or remove it"):
        ImageStream(source, lambda _, pixels: (pixels,), **options)


@pytest.mark.parametrize("name", ["fifo.jpg", "gone.jpg", "loop.png", "device.png", "socket.png", "deep"])
def test_opening_what_is_no_file_is_an_error_at_once(hostile: Path, name: str) -> None:
    with pytest.raises(OSError, match=name):
        open_file(hostile / name)
    with pytest.raises(UserError, match=name):
        open_image(hostile / name)


def test_names_with_line_breaks_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a\nb\x1b[31m.png")
    assert list_images(str(tmp_path)).unusable == ((r"a\nb\x1b[31m.png", "a FIFO"),)
    assert "\n" not in str(list_images(str(tmp_path)))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    (tmp_path / "x").write_bytes(data)
    assert read_file(tmp_path / "x") == data
    buffer = io.BytesIO()
    Image.new("L", (3, 2)).save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue())
    assert open_image(tmp_path / "x.png").size == (3, 2)
