"""Shared slots: what is put is what is taken; full ones are refused and free again; pickled they are the same; none is left."""

import argparse
import contextlib
import errno
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.data.loading.sharing import ChunkMemory, SharedChunk, SharingReader, open_memory

SHAPE = (3, 4, 4, 3)


def chunk(number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def taken(memory: ChunkMemory, shared: SharedChunk) -> np.ndarray:
    out = np.zeros(shared.shape, np.uint8)
    memory.take(shared, out)
    return out


@pytest.fixture(name="memory")
def _memory():
    with contextlib.closing(ChunkMemory(workers=2, slots=2, slot_bytes=3 * 4 * 4 * 3)) as memory:
        yield memory


def test_chunks_come_out_as_they_went_in_whoever_has_the_memory(memory: ChunkMemory) -> None:
    with_worker = pickle.loads(pickle.dumps(memory))
    shared = [with_worker.put(chunk(number), worker=number // 2) for number in range(3)]
    shared.append(with_worker.put(chunk(3, (1, 4, 4, 3)), worker=1))
    assert len({item.slot for item in shared}) == 4
    for number in (2, 0, 3, 1):
        np.testing.assert_array_equal(taken(memory, shared[number]), chunk(number, shared[number].shape))


def test_a_worker_with_full_slots_is_refused_until_one_is_taken_and_never_gets_anothers(memory: ChunkMemory) -> None:
    first, second = (memory.put(chunk(number), worker=1) for number in (0, 1))
    assert memory.put(chunk(2), worker=1) is None
    memory.take(first, np.empty(SHAPE, np.uint8))
    third = memory.put(chunk(2), worker=1)
    assert third == first
    np.testing.assert_array_equal(taken(memory, second), chunk(1))
    np.testing.assert_array_equal(taken(memory, third), chunk(2))


def test_a_chunk_that_is_too_large_is_refused(memory: ChunkMemory) -> None:
    assert memory.put(chunk(0, (4, 4, 4, 3)), worker=0) is None


def test_a_reader_shares_while_there_is_room_and_hands_out_the_chunk_itself_otherwise(memory: ChunkMemory) -> None:
    reader = SharingReader(
        read=lambda index: {"images": chunk(index), "records": index}, memory=memory, first=5, workers=2
    )
    chunks = [reader(index) for index in (6, 8, 10)]  # what the second of two workers reads
    assert [item["records"] for item in chunks] == [6, 8, 10]
    assert [item["images"].slot for item in chunks[:2]] == [2, 3]
    np.testing.assert_array_equal(chunks[2]["images"], chunk(10))


needs_folder = pytest.mark.skipif(not Path("/dev/shm").exists(), reason="needs /dev/shm")


@needs_folder
def test_closed_it_leaves_nothing_behind() -> None:
    memory = ChunkMemory(workers=1, slots=1, slot_bytes=10)
    file = Path("/dev/shm", memory._memory.name)
    assert file.exists()
    memory.close()
    assert not file.exists()


@needs_folder
def test_its_pages_are_taken_at_once() -> None:
    with contextlib.closing(ChunkMemory(workers=2, slots=2, slot_bytes=1 << 20)) as memory:
        assert Path("/dev/shm", memory._memory.name).stat().st_blocks * 512 >= 4 << 20


def _usage(free: int) -> object:
    return lambda _: shutil.disk_usage("/")._replace(free=free)


@needs_folder
@pytest.mark.parametrize(("free", "slots"), [(23_999, 0), (24_000, 1), (60_000, 2), (1 << 30, 6)])
def test_half_of_what_is_free_is_used_and_nothing_where_that_is_too_little(
    free: int, slots: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flsl_jax.data.loading.sharing.shutil", argparse.Namespace(disk_usage=_usage(free)))
    with caplog.at_level(logging.INFO):
        memory = open_memory(workers=3, slot_bytes=4_000)
    if slots:
        with contextlib.closing(memory):
            assert memory._slots == slots
    else:
        assert memory is None
        assert "3 × 0.0 MB of images do not fit into half of /dev/shm, 0.0 MB free" in caplog.text


@needs_folder
def test_memory_that_cannot_be_had_is_done_without_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = []

    def full(number: int, start: int, size: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{number}")))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with caplog.at_level(logging.INFO):
        assert open_memory(workers=1, slot_bytes=10) is None
    assert "No space left on device" in caplog.text
    assert len(names) == 1
    assert not names[0].exists()
