"""Shared slots: what is put is what is taken; full ones are refused and free again; pickled they are the same; none is left."""

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.data.sharing import ChunkMemory, SharedChunk, SharingReader

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
    reader = SharingReader(read=lambda index: {"images": chunk(index), "records": index}, memory=memory, first=5, workers=2)
    chunks = [reader(index) for index in (6, 8, 10)]  # what the second of two workers reads
    assert [item["records"] for item in chunks] == [6, 8, 10]
    assert [item["images"].slot for item in chunks[:2]] == [2, 3]
    np.testing.assert_array_equal(chunks[2]["images"], chunk(10))


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="needs /dev/shm")
def test_closed_it_leaves_nothing_behind() -> None:
    before = {path.name for path in Path("/dev/shm").iterdir()}
    memory = ChunkMemory(workers=1, slots=1, slot_bytes=10)
    assert {path.name for path in Path("/dev/shm").iterdir()} - before
    memory.close()
    assert {path.name for path in Path("/dev/shm").iterdir()} <= before
