"""Packing: what goes in comes out, the same bytes whatever the workers, and damage is noticed."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.decode import DecodeError, Decoding, decode_image, pixels_of
from flsl_jax.data.images.resize import resize
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.records import Record
from flsl_jax.data.sources import packing
from flsl_jax.data.sources.lists import ListSource
from flsl_jax.data.sources.opening import FolderSource, open_source
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.pages import PagedSource
from flsl_jax.data.sources.shards import ShardSource, decode_record, encode_record, read_manifest, verify
from flsl_jax.errors import UserError
from tests.checkpoints.disks import fill


def _image(path: Path, *, size: tuple[int, int], value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    pixels = np.stack([x * 255 / size[0], y * 255 / size[1], np.full(x.shape, value)], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Seven images in two class folders, 60 × 40 or 30 × 20, and a damaged one."""
    folder = tmp_path / "images"
    for i in range(7):
        size = (60, 40) if i % 2 else (30, 20)
        _image(folder / ("cat" if i < 3 else "dog") / f"{i}.{'jpg' if i % 3 else 'png'}", size=size, value=i * 20)
    (folder / "dog" / "5b.jpg").write_bytes(b"\xff\xd8 damaged")
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(
    image=st.binary(max_size=50),
    name=st.text(max_size=10),
    label=st.none() | st.integers(0, 2**31),
    boxes=st.none() | st.lists(st.lists(st.integers(0, 10**6), min_size=5, max_size=5), max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_a_record_survives_encoding(image: bytes, name: str, label: int | None, boxes: list[list[int]] | None) -> None:
    annotation = None
    if boxes is not None:
        values = np.array(boxes).reshape(-1, 5)
        annotation = Boxes(xyxy=(values[:, :4] / 64).astype(np.float32), labels=values[:, 4].astype(np.int64))
    record = Record(image=image, name=name, label=label, boxes=annotation)
    copy = decode_record(encode_record(record))
    assert (copy.image, copy.name, copy.label) == (image, name, label)
    assert (copy.boxes is None) == (annotation is None)
    if annotation is not None and copy.boxes is not None:
        np.testing.assert_allclose(copy.boxes.xyxy, annotation.xyxy, rtol=1e-6, atol=5.01e-4)
        np.testing.assert_array_equal(copy.boxes.labels, annotation.labels)


def test_packed_images_keep_their_bytes_names_and_labels(folder: Path, tmp_path: Path) -> None:
    manifest = pack(FolderSource(folder), tmp_path / "out", records_per_shard=3)
    source, packed = FolderSource(folder), ShardSource(tmp_path / "out")
    expected = [source[i] for i in range(len(source)) if source[i].name != "dog/5b.jpg"]
    assert [packed[i] for i in range(len(packed))] == expected
    assert packed.class_names == source.class_names == ("cat", "dog")
    assert manifest.count == 7
    assert [shard.count for shard in manifest.shards] == [3, 3, 1]
    assert [name for name, _ in manifest.skipped] == ["dog/5b.jpg"]
    assert read_manifest(tmp_path / "out") == verify(tmp_path / "out") == manifest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        *(shard.file for shard in manifest.shards),
    ]


def test_larger_images_are_reduced_and_smaller_ones_kept(folder: Path, tmp_path: Path) -> None:
    pack(FolderSource(folder), tmp_path / "out", short_side=30)
    packed = ShardSource(tmp_path / "out")
    for i in range(len(packed)):
        record = packed[i]
        original = (folder / record.name).read_bytes()
        pixels = decode_image(original, name="original")
        if pixels.shape == (20, 30, 3):
            assert record.image == original
        else:
            with Image.open(io.BytesIO(record.image)) as image:
                assert (image.format, image.size) == ("JPEG", (45, 30))
                reduced = np.asarray(image).astype(int)
            expected = Image.fromarray(pixels).resize((45, 30), Image.Resampling.BICUBIC)
            assert np.abs(reduced - np.asarray(expected)).mean() < 3


def test_boxes_are_scaled_with_their_image() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "PNG")
    boxes = Boxes(xyxy=np.array([[0, 0, 60, 40], [6, 4, 30, 20]], np.float32), labels=np.array([2, 1]))
    record = packing._packed(Record(image=buffer.getvalue(), name="a", boxes=boxes), short_side=20)
    assert record.boxes is not None
    np.testing.assert_allclose(record.boxes.xyxy, [[0, 0, 30, 20], [3, 2, 15, 10]])
    assert record.boxes.labels.tolist() == [2, 1]


def test_boxes_of_a_file_are_packed(folder: Path, tmp_path: Path) -> None:
    coco = {
        "images": [{"id": 7, "file_name": "cat/1.jpg", "width": 60, "height": 40}],
        "categories": [{"id": 3, "name": "bird"}, {"id": 5, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [6.0, 4.0, 24.0, 16.0], "iscrowd": 0}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    manifest = pack(FolderSource(folder), tmp_path / "out", short_side=20, boxes=tmp_path / "boxes.json")
    packed = ShardSource(tmp_path / "out")
    records = {packed[i].name: packed[i] for i in range(len(packed))}
    assert packed.class_names == manifest.class_names == ("bird", "dog")
    assert [name for name, record in records.items() if record.boxes is not None] == ["cat/1.jpg"]
    np.testing.assert_allclose(records["cat/1.jpg"].boxes.xyxy, [[3, 2, 15, 10]])
    assert {name: record.label for name, record in records.items()} == {
        name: 1 if name.startswith("dog") else None for name in records
    }


def test_workers_have_no_influence_on_the_bytes(folder: Path, tmp_path: Path) -> None:
    pack(FolderSource(folder), tmp_path / "one", records_per_shard=2, short_side=24)
    pack(FolderSource(folder), tmp_path / "two", records_per_shard=2, short_side=24, workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_finished_shards_are_kept_and_half_written_ones_are_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(FolderSource(folder), tmp_path / "whole", records_per_shard=2)
    out = tmp_path / "out"
    write_shard = packing._write_shard

    def stop_at_third(path: Path, records: list[bytes]) -> object:
        if "00002" in path.name:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise KeyboardInterrupt
        return write_shard(path, records)

    monkeypatch.setattr(packing, "_write_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        pack(FolderSource(folder), out, records_per_shard=2)
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="is no complete data set"):
        ShardSource(out)
    with pytest.raises(UserError, match="made with another records_per_shard"):
        pack(FolderSource(folder), out, records_per_shard=3)
    again: list[str] = []

    def noted(path: Path, records: list[bytes]) -> object:
        again.append(path.name)
        return write_shard(path, records)

    monkeypatch.setattr(packing, "_write_shard", noted)
    pack(FolderSource(folder), out, records_per_shard=2)
    assert again == ["shard-00002-of-00004.array_record", "shard-00003-of-00004.array_record"]
    assert _files(out) == _files(tmp_path / "whole")
    pack(FolderSource(folder), out, records_per_shard=2)
    assert len(again) == 2


def test_other_images_or_settings_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    pack(FolderSource(folder), tmp_path / "out")
    with pytest.raises(UserError, match="made with another short_side;"):
        pack(FolderSource(folder), tmp_path / "out", short_side=16)
    _image(folder / "dog" / "new.png", size=(8, 8), value=0)
    with pytest.raises(UserError, match="made with another input;"):
        pack(FolderSource(folder), tmp_path / "out")
    with pytest.raises(UserError, match="is the input folder"):
        pack(FolderSource(folder), folder)


def test_a_folder_of_damaged_files_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_text("text")
    with pytest.raises(UserError, match=r"no image of 1 can be read; the first: a\.jpg: not an image"):
        pack(FolderSource(tmp_path / "images"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_with_a_line_break_is_one_line_of_the_log(folder: Path, tmp_path: Path, caplog) -> None:
    (folder / "dog" / "two\nlines.jpg").write_text("text")
    assert "dog/two\nlines.jpg" in dict(pack(FolderSource(folder), tmp_path / "out").skipped)
    (told,) = [message for message in caplog.messages if message.startswith("left out") and "two" in message]
    assert len(told.splitlines()) == 1
    assert told.count(r"dog/two\nlines.jpg") == 1


def test_damage_is_noticed(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = pack(FolderSource(folder), out, records_per_shard=3)
    path = out / manifest.shards[1].file
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"1 of 3 shards are missing or damaged: {path.name}"):
        verify(out)
    path.write_bytes(data[:-1])
    with pytest.raises(UserError, match=rf"has {len(data) - 1} bytes instead of {len(data)}"):
        ShardSource(out)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} is not there"):
        ShardSource(out)


def test_damage_of_the_same_size_is_found_where_it_is_read(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = pack(FolderSource(folder), out, records_per_shard=3)
    path = out / manifest.shards[0].file
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(255 - byte for byte in data[200:400]) + data[400:])
    source = ShardSource(out)
    with pytest.raises(
        DecodeError, match=rf"^record 0 of {out} is damaged \(.+\); python -m .* --verify names the shard$"
    ):
        source[0]
    source[len(source) - 1]  # the other shards are read as before


def test_a_folder_that_has_moved_is_not_to_be_made_anew(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone is not there; name the folder that python -m flsl_jax\.prepare wrote$"):
        ShardSource(tmp_path / "gone")
    with pytest.raises(UserError, match=r"is no complete data set; make one, or finish it"):
        ShardSource(tmp_path)


def test_shards_taken_for_images_are_read_as_shards(folder: Path, tmp_path: Path) -> None:
    pack(FolderSource(folder), tmp_path / "out")
    assert isinstance(open_source(SourceConfig(root=str(tmp_path / "out"))), ShardSource)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', '{"format": "flsl_jax shards 1"}'])
def test_a_damaged_manifest_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json .*prepare the data set again"):
        read_manifest(tmp_path)


def test_an_edited_manifest_is_noticed(folder: Path, tmp_path: Path) -> None:
    manifest = pack(FolderSource(folder), tmp_path / "out")
    shard = dataclasses.asdict(manifest.shards[0]) | {"sha256": "0" * 64}
    values = json.loads(manifest.to_json()) | {"shards": [shard]}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="does not match its own checksum"):
        read_manifest(tmp_path / "out")


def test_a_flipped_bit_anywhere_is_harmless_or_one_damaged_record_or_a_refused_file(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    manifest = pack(FolderSource(folder), out, records_per_shard=3)
    expected = [record.image for record in ShardSource(out)]
    path = out / manifest.shards[1].file
    whole = path.read_bytes()
    outcomes = set()
    for place in (*range(0, 4000, 61), *range(65536, 65700, 7), len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :])
        try:
            source = ShardSource(out)
        except UserError as error:
            outcomes.add("refused" if f"{path} is damaged at its end" in str(error) else str(error))
            continue
        for index, image in enumerate(expected):
            try:
                assert source[index].image == image
            except DecodeError:
                outcomes.add("damaged")
    assert outcomes == {"refused", "damaged"}


def test_damaged_records_are_replaced_and_counted_as_damaged_files_are(folder: Path, tmp_path: Path) -> None:
    manifest = pack(FolderSource(folder), tmp_path / "out", records_per_shard=3)
    path = tmp_path / "out" / manifest.shards[0].file
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(255 - byte for byte in data[200:400]) + data[400:])
    loader = Loader(
        ShardSource(tmp_path / "out"), batch_size=7, crop_size=8, seed=0, area=(1.0, 1.0), aspect=(1.0, 1.0)
    )
    (batch,) = loader.batches(0, 1)
    assert {item.record for item in batch.replaced} == {0, 1}
    assert sorted(batch.record.tolist()) == [2, 2, 2, 3, 4, 5, 6]
    assert loader.corrupt_count == 2


@pytest.mark.parametrize(
    ("count", "message"),
    [(7, "says 7 images, and another"), (6, "00000-of-00003.array_record has 3 records instead of 2")],
)
def test_a_wrong_count_is_refused_before_training_and_by_verify(
    count: int, message: str, folder: Path, tmp_path: Path
) -> None:
    manifest = pack(FolderSource(folder), tmp_path / "out", records_per_shard=3)
    shards = (dataclasses.replace(manifest.shards[0], count=2), *manifest.shards[1:])
    wrong = dataclasses.replace(manifest, count=count, shards=shards)
    (tmp_path / "out" / "manifest.json").write_text(wrong.to_json())
    for open_it in (ShardSource, verify):
        with pytest.raises(UserError, match=message):
            open_it(tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    workers: int, folder: Path, tmp_path: Path, small_disk: Path
) -> None:
    fill(small_disk / "filler")
    with (small_disk / "filler").open("r+b") as file:
        file.truncate((small_disk / "filler").stat().st_size - 300_000)
    out = small_disk / "out"
    with pytest.raises(UserError, match=r"cannot be written \(.*No space left on device\); make room") as caught:
        pack(FolderSource(folder), out, records_per_shard=2, workers=workers)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.part"))
    assert len(list(out.glob("*.array_record"))) in (1, 2)
    (small_disk / "filler").unlink()
    again = pack(FolderSource(folder), out, records_per_shard=2, workers=workers)
    assert again == pack(FolderSource(folder), tmp_path / "elsewhere", records_per_shard=2)
    assert _files(out) == _files(tmp_path / "elsewhere")


def test_a_torn_note_of_progress_is_no_progress(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(packing, "_finish", lambda *_, **__: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception, match="interrupted"):
        pack(FolderSource(folder), out, records_per_shard=3)
    monkeypatch.undo()
    notes = sorted((out / "unfinished").glob("shard*"))
    for note, text in zip(notes, ("", '{"shard": 3}', "[]"), strict=True):
        note.write_text(text)
    assert pack(FolderSource(folder), out, records_per_shard=3).count == 7


def test_other_bands_are_reduced_each_by_itself_and_kept_as_arrays(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    large, small = (np.random.default_rng(0).integers(0, 4096, (side, side, 5)).astype(np.uint16) for side in (40, 16))
    np.save(tmp_path / "in" / "a.npy", large)
    np.save(tmp_path / "in" / "b.npy", small)
    decoding = Decoding(channels=5, window=(0.0, 4095.0))
    source = FolderSource(tmp_path / "in")
    pack(source, tmp_path / "out", short_side=20, decoding=decoding)
    shards = ShardSource(tmp_path / "out")
    levels = [decode_image(shards[index].image, name="a", decoding=decoding) for index in range(2)]
    whole = decode_image(source[0].image, name="a", decoding=decoding)
    np.testing.assert_array_equal(levels[0], resize(whole, height=20, width=20))
    assert shards[1].image == source[1].image  # small enough: its own bytes
    with pytest.raises(UserError, match="with another decoding"):
        pack(source, tmp_path / "out", short_side=20)
    with pytest.raises(UserError, match=r"no image of 2 can be read; .* it has 5 bands, and 3 are wanted"):
        pack(source, tmp_path / "three", short_side=20)


def test_classes_of_a_list_that_changed_are_another_input(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    paths = sorted(str(path) for path in folder.rglob("*.jpg"))
    table.write_text("path,kind,colour\n" + "".join(f"{path},{i % 2},{i % 3}\n" for i, path in enumerate(paths)))
    pack(ListSource(table, label_column="kind"), tmp_path / "out")
    with pytest.raises(UserError, match="holds a data set made with another input"):
        pack(ListSource(table, label_column="colour"), tmp_path / "out")
    pack(ListSource(table, label_column="kind"), tmp_path / "out")


def test_a_later_page_is_packed_as_an_image_of_its_own(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (20, 16), (0, level, 0)) for level in (0, 120, 240)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    pack(PagedSource(FolderSource(tmp_path / "in")), tmp_path / "out")
    packed = ShardSource(tmp_path / "out")
    levels = [int(pixels_of(packed[i].image, name="")[8, 8, 1]) for i in range(3)]
    assert [packed[i].name for i in range(3)] == ["stack.tif#1", "stack.tif#2", "stack.tif#3"]
    assert levels == pytest.approx([0, 120, 240], abs=2)
