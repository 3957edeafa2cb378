"""Images from worker processes through shared memory that is reused.

grain allocates a new block of shared memory for every chunk. That costs 0.12 ms for an image of 224 × 224 pixels, a tenth of
the time for decoding it, because the kernel hands out each page separately, fills it with zeros, and takes it back.
"""

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

log = logging.getLogger(__name__)

# Where Linux keeps shared memory. A container has 64 MB of it by default, which all its processes share.
_FOLDER = Path("/dev/shm")
# Slots per worker, if there is room: as many chunks as a worker makes ahead, and the one that is being taken.
_MAX_SLOTS = 6
# The flag of a slot: whether it holds a chunk that was not taken yet.
_FREE, _FULL = 0, 1


@dataclasses.dataclass(frozen=True)
class SharedChunk:
    """The slot in which a chunk lies, and the chunk's shape."""

    slot: int
    shape: tuple[int, ...]


class ChunkMemory:
    """Slots for chunks of uint8 images. Each slot is written by one worker and read by the process that made the memory.

    A pickled copy refers to the same memory. The process that made it must close it, and then nothing is left behind. If that
    process is killed, Python's resource tracker cleans up.

    Args:
        workers: how many workers write; each has its own slots.
        slots: slots per worker.
        slot_bytes: size of the largest chunk.

    Raises:
        OSError: there is not enough shared memory.
    """

    def __init__(self, *, workers: int, slots: int, slot_bytes: int) -> None:
        self._slots, self._slot_bytes = slots, slot_bytes
        self._count = workers * slots
        # The flags come first, on separate pages.
        self._first = -(-self._count // 4096) * 4096
        self._memory = SharedMemory(create=True, size=self._first + self._count * slot_bytes)
        try:
            self._reserve()
        except OSError:
            self.close()
            raise

    def _reserve(self) -> None:
        """Allocates the pages now: if one were missing later, the worker that first writes to it would be killed (SIGBUS)."""
        if _FOLDER.is_dir():
            with (_FOLDER / self._memory.name).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._memory.size)

    def put(self, images: UInt8[np.ndarray, "b H W C"], *, worker: int) -> SharedChunk | None:
        """Copies a chunk into a free slot of the worker; returns None if no slot is free or the chunk is too large."""
        own = self._flags()[worker * self._slots : (worker + 1) * self._slots]
        free = np.flatnonzero(own == _FREE)
        if not free.size or images.nbytes > self._slot_bytes:
            return None
        chunk = SharedChunk(slot=worker * self._slots + int(free[0]), shape=images.shape)
        self._pixels(chunk)[...] = images
        own[free[0]] = _FULL
        return chunk

    def take(self, chunk: SharedChunk, out: UInt8[np.ndarray, "b H W C"]) -> None:
        """Copies a chunk out and frees its slot."""
        out[...] = self._pixels(chunk)
        self._flags()[chunk.slot] = _FREE

    def free(self, worker: int, *, but: Sequence[int]) -> None:
        """Frees the slots of a worker that is gone, but for those whose chunks will still be taken."""
        first = worker * self._slots
        own = self._flags()[first : first + self._slots]
        own[[slot not in but for slot in range(first, first + self._slots)]] = _FREE

    def close(self) -> None:
        """Gives the memory back; workers that still use it keep it until they end."""
        self._memory.unlink()
        self._memory.close()

    # No view of the buffer is stored, because shared memory cannot be closed while there is one.
    def _buffer(self) -> memoryview:
        buffer = self._memory.buf
        assert buffer is not None, "the memory was closed"
        return buffer

    def _flags(self) -> UInt8[np.ndarray, " slots"]:
        return np.frombuffer(self._buffer(), np.uint8, count=self._count)

    def _pixels(self, chunk: SharedChunk) -> UInt8[np.ndarray, "b H W C"]:
        return np.ndarray(chunk.shape, np.uint8, self._buffer(), self._first + chunk.slot * self._slot_bytes)


def free_memory() -> int:
    """Bytes of shared memory that are free; `sys.maxsize` where the system sets no limit of its own."""
    return shutil.disk_usage(_FOLDER).free if _FOLDER.is_dir() else sys.maxsize


def slots_that_fit(free: int, *, workers: int, slot_bytes: int) -> int:
    """Slots for each worker in half of so many free bytes; 0: its images go through a pipe."""
    return min(free // 2 // (workers * slot_bytes), _MAX_SLOTS)


def open_memory(*, workers: int, slot_bytes: int) -> ChunkMemory | None:
    """Shared memory for the workers' chunks, at most half of what is free; None if that is too little for one chunk each."""
    free = free_memory()
    slots = slots_that_fit(free, workers=workers, slot_bytes=slot_bytes)
    try:
        if slots:
            return ChunkMemory(workers=workers, slots=slots, slot_bytes=slot_bytes)
        reason = f"{workers} × {slot_bytes / 1e6:.1f} MB of images do not fit into half of {_FOLDER}, {free / 1e6:.1f} MB free"
    except OSError as error:
        reason = str(error)
    log.info("no shared memory for the workers' images (%s): they are sent through pipes, which is slower", reason)
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharingReader:
    """A reader of chunks that runs in a worker: puts the images into shared memory if a slot is free, else leaves them as is.

    `read` makes a chunk, a dictionary with `images`, from its number. Worker w of W reads the numbers first + w, first + w + W,
    and so on.
    """

    read: Callable[..., dict[str, Any]]
    memory: ChunkMemory
    first: int
    workers: int

    def __call__(self, index: int, note: Callable[[int], None] | None = None) -> dict[str, Any]:
        chunk = self.read(index) if note is None else self.read(index, note)
        shared = self.memory.put(chunk["images"], worker=(index - self.first) % self.workers)
        return chunk if shared is None else {**chunk, "images": shared}
