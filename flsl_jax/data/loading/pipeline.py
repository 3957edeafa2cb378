"""Batches of base crops whose content is a function of the step alone (docs/method.md, Training)."""

import dataclasses
import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from flsl_jax.data.images.decode import RGB, Decoding
from flsl_jax.data.loading.chunks import ChunkReader, Replacement
from flsl_jax.data.loading.crew import Crew
from flsl_jax.data.loading.order import GlobalOrder
from flsl_jax.data.loading.sharing import ChunkMemory, SharedChunk, SharingReader, open_memory
from flsl_jax.data.loading.unreadable import Damage
from flsl_jax.data.records import Source, name_of
from flsl_jax.data.streams import check_seed
from flsl_jax.errors import UserError

# The size of what a worker sends at a time.
CHUNK_BYTES = 2 << 20


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """One process's share of a batch.

    `images`: uint8. `sample`: step · B + position in the global batch, modulo 2³²; it keys every random draw. `record`:
    the number of the record that was used. `replaced`: the records that could not be read.
    """

    images: UInt8[np.ndarray, "b S S C"]
    sample: UInt32[np.ndarray, " b"]
    record: Int64[np.ndarray, " b"]
    replaced: tuple[Replacement, ...] = ()


class Loader:
    """Reads, decodes and crops this process's share of every global batch, in worker processes.

    The batches do not depend on the number of workers, and can start at any step without saved state. The global batch does
    not depend on the number of processes either: process p gets its positions p·b … (p+1)·b - 1, with b = B / process_count.

    Args:
        source: the data set.
        batch_size: images in the global batch, B.
        crop_size: height and width of the base crops in pixels.
        seed: key of the order and of the crops; 0 to 2³² - 1.
        area, aspect, flip: of the base crop, see `decode.base_crop`.
        decoding: which channels are read of the files.
        workers: processes to start that read and decode; with 0, the calling thread does it.
        process_index, process_count: the number of this process, and how many there are.
        on_corrupt: "replace" logs a record that cannot be read and takes another: the next readable one in the data set's own
            order, or after 16 damaged ones in a row any; "fail" ends the run.
        max_corrupt_share: the share of the samples that may be replaced in that way; more end the run, if they are more than
            20 records too.
        patience: after so many seconds in which a worker reads no new image, it is started again; 0: never.

    Raises:
        UserError: the batch is larger than the data set or not divisible by the number of processes, or the seed has more than
            32 bits.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        crop_size: int,
        seed: int,
        area: tuple[float, float],
        aspect: tuple[float, float],
        flip: bool = False,
        decoding: Decoding = RGB,
        workers: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        on_corrupt: str = "replace",
        max_corrupt_share: float = 1.0,
        patience: float = 0.0,
    ) -> None:
        try:
            check_seed(seed)
        except ValueError as error:
            raise UserError(f"config.{error}") from error
        if batch_size > len(source):
            raise UserError(
                f"config.batch_size={batch_size} is larger than the data set: {source.name} has {len(source)} images; "
                "lower config.batch_size or add images"
            )
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"config.batch_size={batch_size} cannot be shared by {process_count} processes; "
                f"expected a positive multiple of {process_count}"
            )
        local_size = batch_size // process_count
        self._reader = ChunkReader(
            source=source,
            order=GlobalOrder(num_records=len(source), batch_size=batch_size, seed=seed),
            first=process_index * local_size,
            local_size=local_size,
            chunk_size=max(1, min(local_size, CHUNK_BYTES // (decoding.channels * crop_size**2))),
            crop_size=crop_size,
            area=area,
            aspect=aspect,
            flip=flip,
            decoding=decoding,
        )
        self._workers, self._patience, self._reading = workers, patience, 0
        self.damage = Damage(source.name, on_corrupt=on_corrupt, max_share=max_corrupt_share)

    @property
    def steps_per_pass(self) -> int:
        """How many whole batches the data set has."""
        return self._reader.order.steps_per_pass

    @property
    def source(self) -> Source:
        """The data set."""
        return self._reader.source

    @property
    def corrupt_count(self) -> int:
        """How many different records this process could not read so far."""
        return len(self.damage.records)

    def batches(self, start_step: int = 0, num_steps: int | None = None) -> "Batches":
        """The batches from `start_step` on; steps count over all passes. There is no end if `num_steps` is None.

        Workers start with the first batch. They stop when the iterator ends, is closed (`contextlib.closing`) or is deleted.
        """
        per_batch = self._reader.chunks_per_batch
        stop_step = sys.maxsize // per_batch if num_steps is None else start_step + num_steps
        workers = min(self._workers, (stop_step - start_step) * per_batch)
        memory = open_memory(workers=workers, slot_bytes=self._reader.chunk_bytes) if workers else None
        chunks = self._chunks(start_step * per_batch, stop_step * per_batch, memory=memory, workers=workers)
        assemble = functools.partial(self._assemble, memory=memory)
        return Batches(
            chunks,
            steps=range(start_step, stop_step),
            assemble=assemble,
            memory=memory,
            patience=0.0 if workers else self._patience,
            place=self._place,
        )

    def _note(self, record: int) -> None:
        self._reading = record

    def _place(self) -> str:
        return name_of(self.source, self._reading)

    def _chunks(self, start: int, stop: int, *, memory: ChunkMemory | None, workers: int) -> Iterator[dict[str, Any]]:
        if not workers:
            return (self._reader(index, self._note) for index in range(start, stop))
        read: Any = self._reader
        if memory is not None:
            read = SharingReader(read=self._reader, memory=memory, first=start, workers=workers)
        return Crew(
            read,
            start=start,
            stop=stop,
            workers=workers,
            patience=self._patience,
            name_record=functools.partial(name_of, self._reader.source),
            lost=functools.partial(_free_slots, memory),
        )

    def _assemble(self, step: int, chunks: Iterator[dict[str, Any]], *, memory: ChunkMemory | None) -> HostBatch:
        """One batch from its chunks; those in shared memory are copied out, which frees their place."""
        reader = self._reader
        images = np.empty((reader.local_size, reader.crop_size, reader.crop_size, reader.decoding.channels), np.uint8)
        records = np.empty(reader.local_size, np.int64)
        replaced: list[Replacement] = []
        for first in range(0, reader.local_size, reader.chunk_size):
            chunk = next(chunks)
            place = images[first : first + reader.chunk_size]
            if isinstance(chunk["images"], SharedChunk):
                assert memory is not None, "only workers with shared memory send such chunks"
                memory.take(chunk["images"], place)
            else:
                place[...] = chunk["images"]
            records[first : first + reader.chunk_size] = chunk["records"]
            replaced.extend(chunk["replaced"])
        self.damage.add(replaced, asked=reader.local_size, exhausted=bool((records < 0).any()))
        sample = np.arange(reader.local_size, dtype=np.int64) + step * reader.order.batch_size + reader.first
        return HostBatch(
            images=images, sample=(sample % 2**32).astype(np.uint32), record=records, replaced=tuple(replaced)
        )


def _free_slots(memory: ChunkMemory | None, worker: int, kept: Sequence[Any]) -> None:
    """Frees what a lost worker has put into shared memory and nobody was told of."""
    if memory is not None:
        slots = [
            chunk["images"].slot
            for chunk in kept
            if isinstance(chunk, dict) and isinstance(chunk["images"], SharedChunk)
        ]
        memory.free(worker, but=slots)


class Batches(Iterator[HostBatch]):
    """The iterator that `Loader.batches` returns.

    Without workers, `patience` is how many seconds another thread should wait for a batch (0: any), and `place` names the
    record that is being read. With workers, the iterator itself watches them, and `patience` is 0.

    Raises (from `next`):
        UserError: a record cannot be read and `on_corrupt` is "fail", too many cannot be read, or a worker fails repeatedly.
    """

    def __init__(
        self,
        chunks: Iterator[dict[str, Any]],
        *,
        steps: range,
        assemble: Callable[[int, Iterator[dict[str, Any]]], HostBatch],
        memory: ChunkMemory | None,
        patience: float,
        place: Callable[[], str],
    ) -> None:
        self.patience, self.place = patience, place
        self._steps, self._assemble = iter(steps), assemble
        self._chunks = [chunks]
        self._stop = weakref.finalize(self, _stop, self._chunks, memory)

    def __next__(self) -> HostBatch:
        step = next(self._steps, None)
        if step is None or not self._stop.alive:
            self.close()
            raise StopIteration
        return self._assemble(step, self._chunks[0])

    def cancel(self) -> None:
        """Ends the wait of another thread for the workers, which gets a `Cancelled`."""
        for chunks in self._chunks:
            if isinstance(chunks, Crew):
                chunks.cancel()

    def close(self) -> None:
        """Stops the workers; no further batches follow."""
        self._stop()


def _stop(chunks: list[Iterator[dict[str, Any]]], memory: ChunkMemory | None) -> None:
    for crew in (item for item in chunks if isinstance(item, Crew)):
        crew.close()
    chunks.clear()
    if memory is not None:
        memory.close()
