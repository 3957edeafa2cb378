"""A data set of Hugging Face on disk: what `datasets` itself gives for each row, whatever its columns are called."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.sources.hugging_face import HuggingFaceSource
from flsl_jax.data.sources.opening import open_any, open_source
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import ShardSource
from flsl_jax.errors import UserError

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def table(columns, **kinds):
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def images(count, names=None):
    return [{"bytes": png(number), "path": names[number] if names else None} for number in range(count)]


@pytest.fixture
def saved(tmp_path):
    """A folder with train and validation."""
    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "text": datasets.Value("string"),
    }
    train = table({"image": images(9), "label": [0, 1, 1, 0, -1, 1, 0, 0, 1], "text": list("abcdefghi")}, **kinds)
    datasets.DatasetDict(train=train, validation=train.select([8, 0])).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_rows_are_what_datasets_reads(saved):
    source = open_source(SourceConfig(name="huggingface", root=str(saved)))
    assert (len(source), source.class_names) == (9, ("cat", "dog"))
    assert [source[index].label for index in range(9)] == [0, 1, 1, 0, None, 1, 0, 0, 1]
    rows = datasets.load_from_disk(str(saved))["train"]
    for index in (8, 0, 4):
        record = source[index]
        assert record.name == f"train[{index}]"
        np.testing.assert_array_equal(decode_image(record.image, name=""), np.asarray(rows[index]["image"]))
    with pytest.raises(IndexError, match="record 9 of 9"):
        source[9]
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[index] for index in range(9)] == [source[index] for index in range(9)]


def test_splits_are_named_and_val_is_found(saved):
    for split in ("val", "validation"):
        source = open_any(str(saved), config=SourceConfig(split=split))
        assert [source[index].image for index in range(2)] == [png(8), png(0)]
    with pytest.raises(UserError, match=r"has no split test, only train, validation; name one of them by split"):
        open_any(str(saved), config=SourceConfig(split="test"))
    alone = open_any(str(saved / "train"), config=SourceConfig(split="val"))
    assert (len(alone), alone.digest) == (9, open_any(str(saved)).digest)
    assert alone.digest != source.digest


def test_columns_of_images_are_chosen(tmp_path):
    columns = {"left": images(2, ["1.png", "2.png"]), "right": images(2), "raw": [png(5), b""], "words": ["b", None]}
    kinds = {"left": datasets.Image(), "right": datasets.Image()}
    kinds |= {"raw": datasets.Value("binary"), "words": datasets.Value("string")}
    root = str(tmp_path / "saved")
    table(columns, **kinds).save_to_disk(root)
    with pytest.raises(UserError, match=r"has several columns of images \(left, right\); name one by image_column"):
        HuggingFaceSource(root)
    source = HuggingFaceSource(root, image_column="left", label_column="words")
    assert [(source[index].name, source[index].label) for index in range(2)] == [("1.png", 0), ("2.png", None)]
    assert (source.class_names, source[1].image) == (("b",), png(1))
    raw = HuggingFaceSource(root, image_column="raw")
    assert raw[0].image == png(5)
    with pytest.raises(DecodeError, match=r"saved\[1\] has no image in column raw"):
        raw[1]
    with pytest.raises(UserError, match="column words is of type Value; name one of type Image, or of encoded bytes"):
        HuggingFaceSource(root, image_column="words")
    with pytest.raises(UserError, match="column up is not there, only left, right, raw, words"):
        HuggingFaceSource(root, image_column="up")
    with pytest.raises(UserError, match="column raw is no class; name a column of classes"):
        HuggingFaceSource(root, image_column="left", label_column="raw")


def test_numbers_and_usual_names_are_classes(tmp_path):
    kinds = {"image": datasets.Image(), "fine": datasets.Value("int64"), "category": datasets.Value("int64")}
    root = str(tmp_path / "saved")
    table({"image": images(3), "fine": [1, 2, 3], "category": [10, 9, 10]}, **kinds).save_to_disk(root)
    source = HuggingFaceSource(root)
    assert (source.class_names, [source[index].label for index in range(3)]) == (("9", "10"), [1, 0, 1])
    assert HuggingFaceSource(root, label_column="fine").class_names == ("1", "2", "3")


def test_what_is_no_saved_data_set_is_one_line(saved, tmp_path):
    (tmp_path / "parquet").mkdir()
    with pytest.raises(UserError, match=r"parquet is no data set that save_to_disk wrote; .*streamed.*save_to_disk"):
        open_source(SourceConfig(name="huggingface", root=str(tmp_path / "parquet")))
    assert open_source(SourceConfig(root=str(saved))).digest == open_any(str(saved)).digest
    table({"image": []}, image=datasets.Image()).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"none (has no rows|cannot be read)"):
        open_any(str(tmp_path / "none"))
    table({"text": ["a"]}, text=datasets.Value("string")).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(UserError, match="text has no column of images, only text; name one by image_column"):
        open_any(str(tmp_path / "text"))
    (file,) = (saved / "train").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"train cannot be read \(.*\); save the data set again"):
        open_any(str(saved))
    (saved / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset_dict\.json cannot be read"):
        open_any(str(saved))


def test_training_reads_it_by_workers_and_packing_keeps_bytes(saved, tmp_path):
    source = open_any(str(saved))

    def batches(workers, start):
        loader = Loader(source, batch_size=4, crop_size=8, seed=0, area=(0.5, 1.0), aspect=(0.8, 1.25), workers=workers)
        found = loader.batches(start, 4 - start)
        read = [batch.images for batch in found]
        found.close()
        assert loader.corrupt_count == 0
        return read

    np.testing.assert_array_equal(batches(1, 2), batches(0, 0)[2:])
    pack(source, tmp_path / "packed", records_per_shard=4)
    packed = ShardSource(tmp_path / "packed")
    assert [packed[index] for index in range(9)] == [source[index] for index in range(9)]
    assert packed.class_names == ("cat", "dog")


@pytest.mark.parametrize(("split", "line"), [
    ("train", "images: 9 rows; passed over: the other splits (validation; split=train is read)"),
    ("val", "images: 2 rows; passed over: the other splits (train; split=validation is read)"),
])  # fmt: skip
def test_splits_that_are_not_read_are_said(saved, split, line):
    assert str(HuggingFaceSource(str(saved), split=split).listing) == line
    assert str(HuggingFaceSource(str(saved / "train")).listing) == "images: 9 rows; passed over: nothing"
