"""Each format is read back by the program it is for, with the same numbers."""

import csv

import numpy as np
import pytest

from flsl_jax.embedding.files import arrays_of, write_shard
from flsl_jax.embedding.shards import Shard

RNG = np.random.default_rng(0)
NAMES = ["a, b.jpg", "ä\n.jpg"]


def shard(dtype=np.float32):
    vectors = {count: RNG.normal(size=(count, 3)).astype(dtype) for count in (2, 4, 5)}
    numbers = {name: np.arange(4, dtype=np.int32) for name in ("row", "column", "cluster")}
    return Shard(
        images={
            "name": np.array(NAMES), "width": np.array([4, 5], np.int32), "height": np.array([6, 7], np.int32),
            "rows": np.array([1, 1], np.int32), "columns": np.array([2, 2], np.int32), "mean": vectors[2],
        },
        patches={
            "image": np.array([0, 0, 1, 1], np.int32), **numbers,
            "box": np.arange(16, dtype=np.float32).reshape(4, 4), "patch": vectors[4], "mode": -vectors[4],
        },
        clusters={
            "image": np.array([0, 0, 1, 1, 1], np.int32), "cluster": np.arange(5, dtype=np.int32),
            "patches": np.ones(5, np.int32), "box": np.ones((5, 4), np.float32), "mean": vectors[5],
        },
        left_out=(),
    )  # fmt: skip


def test_npz_and_npy_hold_every_array_and_npy_can_be_mapped(tmp_path):
    written = shard()
    files = write_shard(tmp_path, 3, written, format="npz")
    assert list(files) == ["shard-00003.npz"]
    with np.load(tmp_path / "shard-00003.npz") as found:
        assert set(found) == set(arrays_of(written))
        for name, values in arrays_of(written).items():
            np.testing.assert_array_equal(found[name], values)
    write_shard(tmp_path, 0, written, format="npy")
    mapped = np.load(tmp_path / "patch-00000.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, written.patches["patch"])
    assert list(np.load(tmp_path / "name-00000.npy")) == NAMES


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_parquet_tables_have_names_boxes_and_vectors(tmp_path, dtype):
    parquet = pytest.importorskip("pyarrow.parquet")
    written = shard(dtype)
    write_shard(tmp_path, 0, written, format="parquet")
    images = parquet.read_table(tmp_path / "images-00000.parquet").to_pydict()
    assert images["name"] == NAMES
    np.testing.assert_array_equal(np.array(images["mean"], dtype), written.images["mean"])
    patches = parquet.read_table(tmp_path / "patches-00000.parquet")
    assert patches.column("image").to_pylist() == [NAMES[0]] * 2 + [NAMES[1]] * 2
    assert patches.column("bottom").to_pylist() == [3, 7, 11, 15]
    np.testing.assert_array_equal(np.array(patches.column("mode").to_pylist(), dtype), written.patches["mode"])
    assert parquet.read_table(tmp_path / "clusters-00000.parquet").num_rows == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_csv_reads_back_as_the_same_numbers(tmp_path, dtype):
    written = shard(dtype)
    write_shard(tmp_path, 0, written, format="csv")
    with open(tmp_path / "images-00000.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == NAMES
    found = np.array([[row[f"mean_{channel}"] for channel in range(3)] for row in rows]).astype(dtype)
    np.testing.assert_array_equal(found, written.images["mean"])
    with open(tmp_path / "patches-00000.csv", newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert header[:8] == ["image", "row", "column", "cluster", "left", "top", "right", "bottom"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(file, allow_pickle, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path, 0, shard(), format="npz")
    assert list(tmp_path.iterdir()) == []
