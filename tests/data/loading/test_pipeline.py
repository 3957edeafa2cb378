"""The place in the data is a function of the step alone: order, shares, workers, resume, and damaged files."""

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flsl_jax.data.images.decode import base_crop
from flsl_jax.data.loading.order import GlobalOrder, sample_rng
from flsl_jax.data.loading.pipeline import HostBatch, Loader
from flsl_jax.data.loading.sharing import ChunkMemory, open_memory
from flsl_jax.data.records import Record
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.errors import UserError


class _Pixels:
    """Decoded 20 × 30 images, each with its number in the first channel and noise in the others."""

    name = "pixels"
    class_names = ()
    digest = "0" * 64

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        image = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        image[:, :, 0] = index
        return Record(image=image, name=f"{index}")


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """Eleven PNG files, of which 4.png is truncated and 5.png is text."""
    folder = tmp_path / "images"
    folder.mkdir()
    source = _Pixels(11)
    for i in range(11):
        Image.fromarray(source[i].image).save(folder / f"{i:02d}.png")
    whole = (folder / "04.png").read_bytes()
    (folder / "04.png").write_bytes(whole[: len(whole) // 2])
    (folder / "05.png").write_text("not an image")
    return folder


def _loader(source: object, **options: object) -> Loader:
    crop = {"crop_size": 8, "area": (0.8, 1.0), "aspect": (3 / 4, 4 / 3)}
    return Loader(source, **({"batch_size": 4, "seed": 7} | crop | options))


def _read(loader: Loader, start: int, count: int) -> list[HostBatch]:
    with contextlib.closing(loader.batches(start, count)) as batches:
        return list(batches)


def _assert_equal(first: list[HostBatch], second: list[HostBatch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.sample, b.sample)
        np.testing.assert_array_equal(a.record, b.record)
        assert a.replaced == b.replaced


@given(
    num_records=st.integers(1, 200),
    batch_size=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 9),
)
@settings(max_examples=20, deadline=None)
def test_each_epoch_is_a_permutation_cut_into_batches(num_records: int, batch_size: int, seed: int, epoch: int) -> None:
    batch_size = min(batch_size, num_records)
    order = GlobalOrder(num_records=num_records, batch_size=batch_size, seed=seed)
    steps = order.steps_per_pass
    assert steps == num_records // batch_size
    batches = [order.records(step, 0, batch_size) for step in range(epoch * steps, (epoch + 1) * steps)]
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == steps * batch_size
    assert seen.min() >= 0
    assert seen.max() < num_records
    # The same permutation in one batch, and k*B … (k+1)*B of it.
    whole = GlobalOrder(num_records=num_records, batch_size=num_records, seed=seed)
    permutation = whole.records(epoch, 0, num_records).tolist()
    assert sorted(permutation) == list(range(num_records))
    assert seen.tolist() == permutation[: steps * batch_size]


@pytest.mark.parametrize("num_records", [2**16, 2**16 + 1, 2**16 + 2, 2**17 + 1, 100_003])
def test_an_epoch_of_a_large_data_set_is_a_permutation(num_records: int) -> None:
    order = GlobalOrder(num_records=num_records, batch_size=num_records, seed=5)
    np.testing.assert_array_equal(np.sort(order.records(1, 0, num_records)), np.arange(num_records))
    batch = GlobalOrder(num_records=num_records, batch_size=1000, seed=5)
    first = batch.steps_per_pass
    np.testing.assert_array_equal(batch.records(first + 3, 10, 90), order.records(1, 3010, 3090))


@pytest.mark.parametrize("num_records", [100, 2**16 + 1])
def test_epochs_and_seeds_differ(num_records: int) -> None:
    def epoch(seed: int, number: int) -> tuple[int, ...]:
        order = GlobalOrder(num_records=num_records, batch_size=num_records, seed=seed)
        return tuple(order.records(number, 0, 100).tolist())

    assert len({epoch(seed, number) for seed, number in itertools.product(range(5), range(5))}) == 25


@pytest.mark.parametrize("num_records", [64, 2**16 + 64])
def test_the_order_has_no_visible_pattern(num_records: int) -> None:
    order = GlobalOrder(num_records=num_records, batch_size=num_records, seed=3)
    positions = np.arange(num_records)
    correlations = [np.corrcoef(positions, order.records(epoch, 0, num_records))[0, 1] for epoch in range(3)]
    # Of a random permutation the correlation with the position has mean 0 and variance 1 / (n - 1).
    assert abs(np.mean(correlations)) * np.sqrt(3 * (num_records - 1)) < 4


def test_a_far_step_costs_no_more_than_the_first() -> None:
    order = GlobalOrder(num_records=1_281_167, batch_size=512, seed=0)
    start = time.perf_counter()
    order.records(10**9, 0, 512)
    assert time.perf_counter() - start < 1


def test_a_batch_is_the_crops_of_its_records_keyed_by_sample() -> None:
    source = _Pixels(11)
    loader = _loader(source, flip=True, area=(0.3, 1.0))
    assert loader.steps_per_pass == 2
    order = GlobalOrder(num_records=11, batch_size=4, seed=7)
    for step, batch in zip(range(5), loader.batches(), strict=False):
        assert batch.sample.tolist() == list(range(4 * step, 4 * step + 4))
        assert batch.record.tolist() == order.records(step, 0, 4).tolist()
        for image, sample, record in zip(batch.images, batch.sample, batch.record, strict=True):
            rng = sample_rng(seed=7, sample=int(sample))
            crop = base_crop(
                source[int(record)].image, rng=rng, size=8, area=(0.3, 1.0), aspect=(3 / 4, 4 / 3), flip=True
            )
            np.testing.assert_array_equal(image, crop.image)


def test_sample_generators_differ_in_seed_and_sample() -> None:
    draws = {sample_rng(seed=seed, sample=sample).random() for seed in range(4) for sample in range(50)}
    assert len(draws) == 200


def test_crops_and_the_order_of_the_epochs_have_no_key_in_common() -> None:
    samples = {tuple(sample_rng(seed=7, sample=sample).bit_generator.random_raw(64).tolist()) for sample in range(5)}
    for epoch in range(5):
        order = GlobalOrder(num_records=64, batch_size=64, seed=7).records(epoch, 0, 64).tolist()
        assert all(np.argsort(keys, kind="stable").tolist() != order for keys in samples)


@given(start=st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_any_step_can_be_the_first(start: int) -> None:
    source = _Pixels(11)
    _assert_equal(_read(_loader(source), start, 10 - start), _read(_loader(source), 0, 10)[start:])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_one_global_batch(process_count: int) -> None:
    source = _Pixels(11)
    shares = [
        _read(_loader(source, process_index=index, process_count=process_count), 1, 4) for index in range(process_count)
    ]
    for step, whole in enumerate(_read(_loader(source), 1, 4)):
        parts = [share[step] for share in shares]
        for field in ("images", "sample", "record"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part, field) for part in parts]), getattr(whole, field)
            )


def test_chunks_have_no_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    source = _Pixels(11)
    whole = _read(_loader(source), 0, 3)
    monkeypatch.setattr("flsl_jax.data.loading.pipeline.CHUNK_BYTES", 3 * 8 * 8 * 3)
    _assert_equal(_read(_loader(source), 0, 3), whole)


@pytest.mark.parametrize("room", ["none", "for one worker", "for all"])
def test_workers_have_no_influence_and_leave_nothing_behind(
    folder: Path, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, taken, take = [], [], ChunkMemory.take
    monkeypatch.setattr(
        ChunkMemory, "take", lambda self, chunk, out: (taken.append(chunk.slot), take(self, chunk, out))
    )

    def open_with_room(*, workers: int, slot_bytes: int) -> ChunkMemory | None:
        if room == "none":
            return None
        memory = open_memory(workers=workers, slot_bytes=slot_bytes)
        while room == "for one worker" and memory.put(np.zeros((1, 1, 1, 3), np.uint8), worker=0):
            pass
        opened.append(Path("/dev/shm", memory._memory.name))
        return memory

    monkeypatch.setattr("flsl_jax.data.loading.pipeline.open_memory", open_with_room)
    source = FolderSource(folder)
    expected = _read(_loader(source), 3, 7)
    _assert_equal(_read(_loader(source, workers=2), 3, 7), expected)
    # The first of two workers makes four of seven chunks.
    assert len(taken) == {"none": 0, "for one worker": 3, "for all": 7}[room]
    assert not any(file.exists() for file in opened)


def test_damaged_files_are_replaced_by_the_next_counted_and_named_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = _loader(FolderSource(folder))
    order = GlobalOrder(num_records=11, batch_size=4, seed=7)
    replaced = []
    with caplog.at_level(logging.WARNING):
        for step, batch in enumerate(_read(loader, 0, 20)):
            wanted = order.records(step, 0, 4)
            assert batch.record.tolist() == [6 if record in (4, 5) else record for record in wanted.tolist()]
            assert (batch.images[:, 4, 4, 0] == batch.record).all()
            replaced += [(item.sample, item.record) for item in batch.replaced]
    samples = np.concatenate([order.records(step, 0, 4) for step in range(20)])
    expected = [(i, bad) for i, record in enumerate(samples.tolist()) for bad in range(record, 6) if record in (4, 5)]
    assert replaced == expected
    assert loader.corrupt_count == 2
    messages = [message for message in caplog.messages if "cannot be read" in message]
    assert len(messages) == 2
    assert {name for name in ("04.png", "05.png") if any(name in message for message in messages)} == {
        "04.png",
        "05.png",
    }


def test_damaged_files_end_the_run_where_asked_for(folder: Path) -> None:
    loader = _loader(FolderSource(folder), batch_size=11, on_corrupt="fail")
    with pytest.raises(UserError, match=r"0[45]\.png.*on_corrupt=replace"):
        _read(loader, 0, 1)


def test_a_data_set_of_damaged_files_is_one_error(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_text("nothing")
    with pytest.raises(UserError, match="no readable record among 20 for one sample"):
        _read(_loader(FolderSource(tmp_path)), 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, r"config\.batch_size=12 is larger than the data set: pixels has 11 images"),
        ({"batch_size": 9, "process_count": 2}, r"config\.batch_size=9 cannot be shared by 2 processes"),
        ({"batch_size": 0}, r"config\.batch_size=0"),
        ({"seed": -1}, r"config\.seed is -1; expected 0 to 4294967295"),
        ({"seed": 2**32}, r"config\.seed is 4294967296; expected 0 to 4294967295"),
    ],
)
def test_impossible_batches_are_refused_at_once(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _loader(_Pixels(11), **options)


_PROGRAM = """
import sys, time
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.sources.opening import FolderSource

if __name__ == "__main__":
    crop = {"crop_size": 8, "area": (0.8, 1.0), "aspect": (1.0, 1.0)}
    batches = Loader(FolderSource(sys.argv[1]), batch_size=4, **crop, seed=7, workers=1).batches()
    next(batches)
    import multiprocessing
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
"""


def _program(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(path), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_that_just_ends_does_so_without_noise(folder: Path, tmp_path: Path) -> None:
    out, err = _program(tmp_path, str(folder), "end").communicate(timeout=60)
    assert len(out.split()) == 1
    assert [line for line in err.splitlines() if "cannot be read" not in line] == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_ends_when_its_parent_is_killed(folder: Path, tmp_path: Path) -> None:
    program = _program(tmp_path, str(folder), "wait")
    assert program.stdout is not None
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 1
    assert all(map(_alive, workers))
    program.kill()
    deadline = time.monotonic() + 15
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))
    program.communicate(timeout=15)
