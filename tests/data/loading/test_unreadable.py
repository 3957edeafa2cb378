"""Damage is named, counted and judged by its share of the samples; long runs of damaged neighbours are no end."""

import contextlib
import logging
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.loading.chunks import Replacement
from flsl_jax.data.loading.pipeline import HostBatch, Loader
from flsl_jax.data.loading.unreadable import Damage
from flsl_jax.data.records import Record
from flsl_jax.errors import UserError


class Holed:
    """200 decoded images of their own number; those in `holes` are damaged."""

    name = "holed"
    class_names = ()
    digest = "0" * 64

    def __init__(self, holes: range) -> None:
        self._holes = holes

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Record:
        if index in self._holes:
            raise DecodeError(f"image_{index}.png: gone")
        return Record(image=np.full((9, 9, 3), index, np.uint8), name=f"image_{index}.png")


def loader(holes: range, **options: object) -> Loader:
    crop = {"crop_size": 8, "area": (0.8, 1.0), "aspect": (3 / 4, 4 / 3)}
    return Loader(Holed(holes), **({"batch_size": 10, "seed": 3} | crop | options))


def read(reader: Loader, steps: int) -> list[HostBatch]:
    with contextlib.closing(reader.batches(0, steps)) as batches:
        return list(batches)


def test_a_long_run_of_damaged_neighbours_is_replaced_from_the_whole_data_set() -> None:
    reader = loader(range(50, 110), max_corrupt_share=0.5)
    batches = read(reader, 20)
    used = np.concatenate([batch.record for batch in batches])
    assert sorted(used[(used < 50) | (used >= 110)].tolist()) == sorted(used.tolist())
    assert reader.corrupt_count == 60
    for batch in batches:
        assert (batch.images == batch.record[:, None, None, None]).all()
    # Those near the end of the run take the next readable one; the others are drawn, each record as likely as any other.
    counts = np.bincount(used, minlength=200)
    assert counts[110] >= 16
    assert np.sort(counts)[-2] <= 6
    for first, second in zip(batches, read(loader(range(50, 110)), 20), strict=True):
        np.testing.assert_array_equal(first.record, second.record)


def test_what_stands_in_does_not_depend_on_chunks_or_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(loader(range(20, 90)), 6)
    monkeypatch.setattr("flsl_jax.data.loading.pipeline.CHUNK_BYTES", 3 * 8 * 8 * 3)
    for options in ({}, {"workers": 1}):
        for first, second in zip(whole, read(loader(range(20, 90), **options), 6), strict=True):
            np.testing.assert_array_equal(first.record, second.record)
            np.testing.assert_array_equal(first.images, second.images)
            assert first.replaced == second.replaced


def test_more_than_the_share_ends_the_run_with_both_numbers_and_less_does_not() -> None:
    with pytest.raises(
        UserError,
        match=r"holed: \d+ of \d+ images that were asked for cannot be read, more than config\.data\.max_corrupt_share=0\.1 "
        r"allows; the first is record \d+ \(image_\d+\.png: gone\)",
    ):
        read(loader(range(50, 110), max_corrupt_share=0.1), 100)
    read(loader(range(50, 110), max_corrupt_share=0.3), 100)
    read(loader(range(50, 110), max_corrupt_share=1.0), 100)


def test_twenty_files_never_end_a_run() -> None:
    reader = loader(range(20), max_corrupt_share=0.01)
    read(reader, 100)
    assert reader.corrupt_count == 20


def test_without_a_readable_image_it_ends_at_the_first_sample() -> None:
    with pytest.raises(UserError, match=r"no readable record among \d+ for one sample.*check that these are images"):
        read(loader(range(200)), 1)


def test_the_first_are_named_and_then_the_number_each_time_it_doubles(caplog: pytest.LogCaptureFixture) -> None:
    damage = Damage("photos", on_corrupt="replace", max_share=1.0)
    with caplog.at_level(logging.WARNING):
        for record in range(100):
            damage.add([Replacement(sample=record, record=record, reason=f"a\n{record}.png")], asked=1, exhausted=False)
    assert [message.split(": ")[-1] for message in caplog.messages[:20]] == [
        rf"a\n{record}.png" for record in range(20)
    ]
    assert [message.split()[0] for message in caplog.messages[20:]] == ["40", "80"]


def test_all_are_listed_at_the_end_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "unreadable.txt"
    Damage("photos", on_corrupt="replace", max_share=1.0).write(path)
    assert not path.exists()
    for records in ((3, 1), (1, 7)):
        damage = Damage("photos", on_corrupt="replace", max_share=1.0)
        replaced = [Replacement(sample=record, record=record, reason=f"{record}.png: torn") for record in records]
        damage.add(replaced, asked=9, exhausted=False)
        damage.write(path)
    assert path.read_text() == "1\t1.png: torn\n3\t3.png: torn\n7\t7.png: torn\n"
    assert f"2 images of photos could not be read; {path} names them:" in caplog.text
    assert "record 7: 7.png: torn" in caplog.text
    damage.write(tmp_path / "nowhere" / "unreadable.txt")
    assert "unreadable.txt cannot be written: No such file or directory" in caplog.text
