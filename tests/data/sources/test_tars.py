"""Images in tar files: what is found equals what tarfile unpacks, whatever wrote the file and however it ends."""

import gzip
import io
import json
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.sources.opening import open_any, open_source
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import ShardSource
from flsl_jax.data.sources.tars import TarSource
from flsl_jax.errors import UserError


def _png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + value, 6), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(path: Path, files: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return path


def _open(*paths: Path, **keys: str) -> TarSource:
    return TarSource([str(path) for path in paths], name=str(paths[0]), **keys)


def _names(source: TarSource) -> list[str]:
    return [source.path(index) for index in range(len(source))]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_image_is_the_one_that_tarfile_reads(format: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    long = "f" * 90 + "/" + "n" * 60 + ".jpg"
    files = {
        name: rng.bytes(int(rng.integers(0, 2000))) for name in ("a/1.jpg", long, "é ö.PNG", "notes.txt", "z.webp")
    }
    if format != tarfile.USTAR_FORMAT:
        files["/".join(["deep" * 20] * 5) + "/1.jpg"] = b"far down"
    path = _tar(tmp_path / "x.tar", files, format=format)
    source = _open(path)
    assert _names(source) == [name for name in files if name != "notes.txt"]
    with tarfile.open(path) as archive, ThreadPoolExecutor(4) as threads:
        expected = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
        order = rng.integers(0, len(source), 200).tolist()
        for index, record in zip(order, threads.map(source.__getitem__, order)):
            assert (record.name, record.image) == (source.path(index), expected[source.path(index)])
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[index] for index in range(len(source))] == [source[index] for index in range(len(source))]
    assert copy.digest == source.digest


def test_labels_of_webdataset(tmp_path: Path) -> None:
    files = {}
    for number, label in enumerate((10, 9, 10)):
        files |= {f"{number:05d}.jpg": b"x", f"{number:05d}.cls": str(label).encode()}
        files |= {f"{number:05d}.json": json.dumps({"kind": f"k{label}", "text": [1]}).encode()}
    path = _tar(tmp_path / "train-0000.tar", files)
    source = _open(path)
    assert (source.class_names, [source[index].label for index in range(3)]) == (("9", "10"), [1, 0, 1])
    named = _open(path, label_column="kind")
    assert (named.class_names, [named.label(index) for index in range(3)]) == (("k10", "k9"), [0, 1, 0])
    with pytest.raises(UserError, match=r"00000\.json has no class \(KeyError: 'nothing'\)"):
        _open(path, label_column="nothing")
    with pytest.raises(UserError, match=r"00000\.json has no class \(ValueError: text is \[1\]\)"):
        _open(path, label_column="text")
    with pytest.raises(UserError, match=r"no image has a \.json beside it with a key kind"):
        _open(_tar(tmp_path / "bare.tar", {"1.jpg": b"x"}), label_column="kind")


def test_a_folder_in_a_tar_file_is_labelled_as_the_folder_is(tmp_path: Path) -> None:
    files = {
        "./photos/dog/1.jpg": b"1",
        "./photos/cat/a.b.jpg": b"2",
        "photos/cat/a.c.jpg": b"3",
        "photos/.x/9.jpg": b"4",
    }
    source = _open(_tar(tmp_path / "x.tar", files | {"photos/cat/._1.jpg": b"5"}))
    assert _names(source) == ["photos/dog/1.jpg", "photos/cat/a.b.jpg", "photos/cat/a.c.jpg"]
    assert [source.class_names[source.label(index)] for index in range(3)] == ["dog", "cat", "cat"]  # type: ignore[index]
    assert str(source.listing) == "images: 3 JPEG; passed over: 2 hidden"


def test_samples_with_several_images(tmp_path: Path) -> None:
    masks = {f"{n}.{ending}": ending.encode() for n in range(2) for ending in ("jpg", "seg.png", "cls")}
    source = _open(_tar(tmp_path / "masks.tar", masks | {"readme": b"", "0.mp3": b""}))
    assert _names(source) == ["0.jpg", "1.jpg"]
    found = "images: 2 JPEG; passed over: files that are no images by their names (1 without suffix, 1 .mp3), "
    assert str(source.listing) == found + "2 other images of samples, such as 0.seg.png"
    pairs = _tar(tmp_path / "pairs.tar", {"0.jpg": b"j", "0.png": b"p"})
    with pytest.raises(UserError, match=r"several images \(0\.jpg, 0\.png\); .* image_column=jpg"):
        _open(pairs)
    assert _open(pairs, image_column="png")[0].image == b"p"
    assert _names(_open(_tar(tmp_path / "masks.tar", masks), image_column=".seg.png")) == ["0.seg.png", "1.seg.png"]
    with pytest.raises(UserError, match=r"no image that ends in \.tif"):
        _open(pairs, image_column="tif")


def test_several_tar_files_are_one_data_set(tmp_path: Path) -> None:
    for number in range(3):
        _tar(tmp_path / "set" / f"{number:03d}.tar", {"7.jpg": b"%d" % number, "7.cls": b"%d" % (2 - number)})
    for root in ("set", "set/{000..002}.tar", "set/*.tar"):
        source = open_source(SourceConfig(name="tar", root=f"{tmp_path}/{root}"))
        assert [source[index].name for index in range(3)] == [f"{number:03d}.tar/7.jpg" for number in range(3)]
        assert [source[index].image for index in range(3)] == [b"0", b"1", b"2"]
        assert [source.class_names[source[index].label] for index in range(3)] == ["2", "1", "0"]  # type: ignore[index]
    assert open_any(f"{tmp_path}/set").digest == source.digest
    _tar(tmp_path / "other" / "000.tar", {"7.jpg": b"9"})
    both = open_any(f"{tmp_path}/set/000.tar,{tmp_path}/other/000.tar")
    assert [both[index].name for index in range(2)] == ["set/000.tar/7.jpg", "other/000.tar/7.jpg"]


def test_a_tar_file_that_is_cut_off_gives_what_is_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = _tar(tmp_path / "x.tar", {f"{number}.jpg": bytes(1000) for number in range(5)}).read_bytes()
    # A header and 1,000 bytes take three blocks of 512: the cuts are in the third image, in its header, and between two.
    for length, count, why in ((3700, 2, "2.jpg is cut off"), (3300, 2, "truncated header"), (3072, 2, "")):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        caplog.clear()
        source = _open(tmp_path / "cut.tar")
        assert (len(source), source[count - 1].image) == (count, bytes(1000))
        if why:
            assert why in caplog.text or "is no tar header" in caplog.text
            assert "after 2 files, the last of them 1.jpg; the rest is left out" in caplog.text
            with pytest.raises(UserError, match=r"after 2 files.*copy it again, or set on_corrupt=replace"):
                _open(tmp_path / "cut.tar", on_corrupt="fail")
    damaged = bytearray(whole)
    damaged[3 * 1536 : 3 * 1536 + 100] = b"?" * 100
    (tmp_path / "damaged.tar").write_bytes(damaged)
    assert len(_open(tmp_path / "damaged.tar")) == 3
    assert "what follows at byte 4,608 is no tar header, after 3 files" in caplog.text


def test_a_tar_file_that_shrinks_is_a_damaged_record(tmp_path: Path) -> None:
    path = _tar(tmp_path / "x.tar", {"1.jpg": bytes(1000), "2.jpg": bytes(1000)})
    source = _open(path)
    path.write_bytes(path.read_bytes()[:2100])
    assert len(source[0].image) == 1000
    with pytest.raises(DecodeError, match=r"2\.jpg in .*x\.tar is cut off; the tar file has changed"):
        source[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"x" * 2000), "is packed with gzip, .* unpack it to a plain .tar"),
        (b"BZh9" + bytes(100), "is packed with bzip2"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "is packed with zstd"),
        (b"PK\x03\x04" + bytes(100), "is packed with zip"),
        (b"not a tar file" * 100, "is no tar file"),
        (b"", "is no tar file|holds no image .it is empty"),
        (bytes(10240), "holds no image .it is empty"),
    ],
    ids=["gzip", "bzip2", "zstd", "zip", "text", "nothing", "zeros"],
)
def test_what_is_no_plain_tar_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source(SourceConfig(name="tar", root=str(tmp_path / "x.tar")))


def test_tar_files_without_images_and_wrong_roots_are_one_line(tmp_path: Path) -> None:
    _tar(tmp_path / "set" / "x.tar", {"a.txt": b"", "b.mp3": b"", "c.mp3": b""})
    with pytest.raises(UserError, match=r"holds no image \(2 \.mp3, 1 \.txt\); name a tar file with images"):
        open_any(str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"holds no image \(2 \.mp3, 1 \.txt\)"):
        open_source(SourceConfig(root=str(tmp_path / "set")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tar file"):
        open_source(SourceConfig(name="tar", root=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"nowhere\.tar cannot be read \(No such file"):
        open_source(SourceConfig(name="tar", root=str(tmp_path / "nowhere.tar")))


def test_packing_a_tar_file_keeps_bytes_names_and_labels(tmp_path: Path) -> None:
    files = {f"{label}/{number}.png": _png(number) for number in range(4) for label in ("cat", "dog")}
    source = _open(_tar(tmp_path / "x.tar", files))
    pack(source, tmp_path / "packed", records_per_shard=3, workers=2)
    packed = ShardSource(tmp_path / "packed")
    assert [packed[index] for index in range(8)] == [source[index] for index in range(8)]
    assert packed.class_names == ("cat", "dog")
