"""Images from worker processes in shared memory that is used again and again.

A block of shared memory that is made anew for every chunk, as grain does it, costs 0.12 ms an image of 224 pixels: the kernel
hands its pages out one by one, zeroed, and takes them back. That is a tenth of what decoding takes.
"""

import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

log = logging.getLogger(__name__)

# Where Linux keeps shared memory. A default container has 64 MB of it, for everybody in it.
_FOLDER = Path("/dev/shm")
# Of each worker, where there is room: what grain holds of it at most.
_MAX_SLOTS = 6
# Of every slot: whether there is a chunk in it that was not taken yet.
_FREE, _FULL = 0, 1


@dataclasses.dataclass(frozen=True)
class SharedChunk:
    """Which slot a chunk lies in, and its shape."""

    slot: int
    shape: tuple[int, ...]


class ChunkMemory:
    """Slots for chunks of uint8 images, each written by one worker and read by the process that made the memory.

    Pickled, it is the same memory. The maker closes it, which leaves nothing behind; after a kill Python's resource tracker
    does that.

    Args:
        workers: how many write; each has slots of its own.
        slots: of each worker.
        slot_bytes: of the largest chunk.

    Raises:
        OSError: there is not that much.
    """

    def __init__(self, *, workers: int, slots: int, slot_bytes: int) -> None:
        self._slots, self._slot_bytes = slots, slot_bytes
        self._count = workers * slots
        # The flags come first, on pages of their own.
        self._first = -(-self._count // 4096) * 4096
        self._memory = SharedMemory(create=True, size=self._first + self._count * slot_bytes)
        try:
            self._reserve()
        except OSError:
            self.close()
            raise

    def _reserve(self) -> None:
        """Takes the pages now: one that is missing later kills the worker that first writes to it (SIGBUS)."""
        if _FOLDER.is_dir():
            with (_FOLDER / self._memory.name).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._memory.size)

    def put(self, images: UInt8[np.ndarray, "b H W 3"], *, worker: int) -> SharedChunk | None:
        """Copies a chunk into a free slot of the worker; None where there is none, or the chunk is too large."""
        own = self._flags()[worker * self._slots : (worker + 1) * self._slots]
        free = np.flatnonzero(own == _FREE)
        if not free.size or images.nbytes > self._slot_bytes:
            return None
        chunk = SharedChunk(slot=worker * self._slots + int(free[0]), shape=images.shape)
        self._pixels(chunk)[...] = images
        own[free[0]] = _FULL
        return chunk

    def take(self, chunk: SharedChunk, out: UInt8[np.ndarray, "b H W 3"]) -> None:
        """Copies a chunk out and frees its slot."""
        out[...] = self._pixels(chunk)
        self._flags()[chunk.slot] = _FREE

    def close(self) -> None:
        """Gives the memory back; workers that still have it keep theirs until they end."""
        self._memory.unlink()
        self._memory.close()

    # No view of the buffer is kept: shared memory of which there is one cannot be closed.
    def _buffer(self) -> memoryview:
        buffer = self._memory.buf
        assert buffer is not None, "the memory was closed"
        return buffer

    def _flags(self) -> UInt8[np.ndarray, " slots"]:
        return np.frombuffer(self._buffer(), np.uint8, count=self._count)

    def _pixels(self, chunk: SharedChunk) -> UInt8[np.ndarray, "b H W 3"]:
        return np.ndarray(chunk.shape, np.uint8, self._buffer(), self._first + chunk.slot * self._slot_bytes)


def open_memory(*, workers: int, slot_bytes: int) -> ChunkMemory | None:
    """Memory for the chunks of some workers, of half of what is free; None where that has no place for one chunk of each."""
    free = shutil.disk_usage(_FOLDER).free if _FOLDER.is_dir() else sys.maxsize
    slots = min(free // 2 // (workers * slot_bytes), _MAX_SLOTS)
    try:
        if slots:
            return ChunkMemory(workers=workers, slots=slots, slot_bytes=slot_bytes)
        reason = f"{workers} × {slot_bytes / 1e6:.1f} MB of images do not fit into half of {_FOLDER}, {free / 1e6:.1f} MB free"
    except OSError as error:
        reason = str(error)
    log.info("no shared memory for the workers' images (%s): they go through pipes, which is slower", reason)
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharingReader:
    """A reader of chunks, as a worker runs it: the images go to shared memory where that has room, else they stay as they are.

    `read` makes a chunk by its number, a dictionary with `images`. Worker w of W reads the numbers first + w, first + w + W, …
    """

    read: Callable[[int], dict[str, Any]]
    memory: ChunkMemory
    first: int
    workers: int

    def __call__(self, index: int) -> dict[str, Any]:
        chunk = self.read(index)
        shared = self.memory.put(chunk["images"], worker=(index - self.first) % self.workers)
        return chunk if shared is None else {**chunk, "images": shared}
