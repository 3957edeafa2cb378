"""Folders of any shape, tfds without TensorFlow, limits and boxes."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.boxes import Boxes
from flsl_jax.data.records import Record
from flsl_jax.data.sources.boxed_source import BoxedSource
from flsl_jax.data.sources.opening import FirstRecords, FolderSource, open_source
from flsl_jax.errors import UserError


def _png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def test_a_folder_lists_all_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    wanted = ["B.JPG", "a/deep/er/é.png", "a/z.webp", "b.tiff", "b/1.jpeg", "b/2.bmp", "c.tif"]
    _write(tmp_path, *wanted, "notes.txt", ".hidden.jpg", ".git/x.jpg", "a/jpg")
    source = FolderSource(tmp_path)
    assert [source[i].name for i in range(len(source))] == sorted(wanted, key=os.fsencode)
    assert all(source[i].image == source[i].name.encode() for i in range(len(source)))
    assert source.class_names == ()
    assert source[0].label is None


def test_class_folders_give_labels(tmp_path: Path) -> None:
    source = FolderSource(_write(tmp_path, "cat/1.png", "cat/x/2.png", "dog/0.png", "ant/9.png"))
    assert source.class_names == ("ant", "cat", "dog")
    assert {source[i].name: source[i].label for i in range(4)} == {
        "ant/9.png": 0,
        "cat/1.png": 1,
        "cat/x/2.png": 1,
        "dog/0.png": 2,
    }


@pytest.mark.parametrize("paths", [("x.png", "a/1.png", "b/1.png"), ("all/1.png", "all/2.png")])
def test_other_layouts_have_no_labels(tmp_path: Path, paths: tuple[str, ...]) -> None:
    source = FolderSource(_write(tmp_path, *paths))
    assert source.class_names == ()
    assert [source[i].label for i in range(len(source))] == [None] * len(paths)


def test_links_are_followed_once(tmp_path: Path) -> None:
    _write(tmp_path / "elsewhere", "1.png")
    _write(tmp_path / "root", "2.png")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    source = FolderSource(tmp_path / "root")
    assert [source[i].name for i in range(len(source))] == ["2.png", "linked/1.png"]


def test_a_pickled_folder_is_the_same(tmp_path: Path) -> None:
    source = FolderSource(_write(tmp_path, "a/1.png", "b/2.png"))
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(2)] == [source[i] for i in range(2)]


@pytest.mark.parametrize("index", [-1, 2])
def test_records_outside_are_refused(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError, match=f"record {index} of 2"):
        FolderSource(_write(tmp_path, "1.png", "2.png"))[index]


def test_unusable_folders_are_one_clear_error(tmp_path: Path) -> None:
    _write(tmp_path, "file.txt")
    with pytest.raises(UserError, match=r"holds no image file.*name a folder of images"):
        FolderSource(tmp_path)
    with pytest.raises(UserError, match=r"nowhere cannot be read \(No such file or directory\)"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"file\.txt cannot be read \(Not a directory\)"):
        FolderSource(tmp_path / "file.txt")
    with pytest.raises(UserError, match=r"config\.data\.root is empty"):
        open_source(SourceConfig(name="folder"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    _write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(UserError, match=r"/b/ cannot be read \(Permission denied\)"):
        FolderSource(tmp_path)


def test_a_limit_keeps_the_first_records(tmp_path: Path) -> None:
    _write(tmp_path, "1.png", "2.png", "3.png")
    source = open_source(SourceConfig(name="folder", root=str(tmp_path), limit=2))
    assert isinstance(source, FirstRecords)
    assert [source[i].name for i in range(len(source))] == ["1.png", "2.png"]
    with pytest.raises(IndexError):
        source[2]
    assert len(open_source(SourceConfig(name="folder", root=str(tmp_path), limit=9))) == 3


def test_boxes_are_found_by_path_name_or_stem(tmp_path: Path) -> None:
    def box(x: float) -> Boxes:
        return Boxes(xyxy=np.array([[x, 0, x + 1, 1]], np.float32), labels=np.array([1]))

    source = FolderSource(_write(tmp_path, "cat/1.png", "dog/1.png", "dog/2.png", "dog/3.png"))
    boxes = {"cat/1.png": box(0), "1.png": box(1), "2": box(2)}
    boxed = BoxedSource(source, boxes, class_names=("bird", "dog"))
    found = [boxed[i].boxes for i in range(4)]
    assert [None if item is None else item.xyxy[0, 0] for item in found] == [0, 1, 2, None]
    assert boxed.class_names == ("bird", "dog")
    assert [boxed[i].label for i in range(4)] == [None, 1, 1, 1]


def test_a_config_with_boxes_reads_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(2):
        (tmp_path / "images" / f"{i}.png").write_bytes(_png())
    coco = {
        "images": [{"id": 7, "file_name": "1.png", "width": 30, "height": 20}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [3.0, 4.0, 10.0, 11.0], "iscrowd": 0}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    source = open_source(SourceConfig(name="folder", root=str(tmp_path / "images"), boxes=str(tmp_path / "boxes.json")))
    assert source.class_names == ("cat", "dog")
    assert source[0].boxes is None
    assert source[1].boxes is not None
    assert source[1].boxes.xyxy.tolist() == [[3, 4, 13, 15]]
    assert source[1].boxes.labels.tolist() == [1]


_TFDS_PROGRAM = """
import io, sys
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

def png(i):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (i, 0, 0)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = tfds.features.ClassLabel(names=["ant", "bee"])
        objects = tfds.features.Sequence({"bbox": tfds.features.BBoxFeature(), "label": names})
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": names}
        if sys.argv[2] == "boxes":
            features["objects"] = objects
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(5):
            box = {"bbox": tfds.features.BBox(ymin=0.1, xmin=0.2, ymax=0.5, xmax=0.9), "label": 1}
            example = {"image": png(i), "label": i % 2}
            yield i, example | ({"objects": [box] * (i % 3)} if sys.argv[2] == "boxes" else {})

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()

import pickle
from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import decode_image
from flsl_jax.data.sources.opening import open_source

source = open_source(SourceConfig(name="tfds", dataset="tiny", root=sys.argv[1]))
for copy in (source, pickle.loads(pickle.dumps(source))):
    assert copy.class_names == ("ant", "bee")
    records = [copy[i] for i in range(len(copy))]
    values = [int(decode_image(record.image, name=record.name)[0, 0, 0]) for record in records]
    assert sorted(values) == [0, 1, 2, 3, 4]
    assert [record.label for record in records] == [value % 2 for value in values]
    for value, record in zip(values, records):
        if sys.argv[2] == "boxes":
            assert record.boxes.xyxy.shape == (value % 3, 4)
            assert np.allclose(record.boxes.xyxy, [6, 2, 27, 10])
            assert record.boxes.labels.tolist() == [1] * (value % 3)
        else:
            assert record.boxes is None
assert len(open_source(SourceConfig(name="tfds", dataset="tiny", root=sys.argv[1], split="train[:2]"))) == 2
assert "tensorflow" not in sys.modules

from pathlib import Path
from flsl_jax.data.images.decode import DecodeError
from flsl_jax.errors import UserError

(shard,) = Path(sys.argv[1]).rglob("*.array_record*")
data = shard.read_bytes()
outcomes = set()
for place in (*range(70, 1400, 131), *range(65540, 65640, 11)):
    shard.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
    try:
        source = open_source(SourceConfig(name="tfds", dataset="tiny", root=sys.argv[1]))
    except UserError as error:
        outcomes.add("refused")
        assert "tfds build tiny" in str(error)
        continue
    for index in range(5):
        try:
            source[index]
        except DecodeError as error:
            outcomes.add("damaged")
            assert f"tfds tiny train[{index}] is damaged" in str(error)
assert "damaged" in outcomes
"""


@pytest.mark.parametrize("kind", ["labels", "boxes"])
def test_tfds_is_read_without_tensorflow(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("tensorflow_datasets")
    program = tmp_path / "program.py"
    program.write_text(_TFDS_PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "tfds"), kind],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.filterwarnings("ignore")
def test_a_tfds_data_set_that_is_not_prepared_says_how_to(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match=r"config\.data\.dataset is empty"):
        open_source(SourceConfig(name="tfds"))
    with pytest.raises(UserError, match=r"tfds knows no data set 'no_such_set'"):
        open_source(SourceConfig(name="tfds", dataset="no_such_set", root=str(tmp_path)))
    with pytest.raises(UserError, match=r"tfds build mnist --file_format=array_record --data_dir="):
        open_source(SourceConfig(name="tfds", dataset="mnist", root=str(tmp_path)))


def test_real_photos_can_be_listed_and_decoded() -> None:
    from flsl_jax.data.images.decode import decode_image

    data = Path(os.environ.get("FLSL_JAX_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not (data / "coco-mini").is_dir():
        pytest.skip(f"no coco-mini in {data}; set FLSL_JAX_TEST_DATA")
    source = FolderSource(data / "coco-mini" / "images")
    assert source.class_names == ("train", "val")
    for i in range(0, len(source), 40):
        record = source[i]
        assert isinstance(record, Record)
        with Image.open(io.BytesIO(record.image)) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode_image(record.image, name=record.name), expected)
