"""Batches of base crops whose content is a function of the step alone (docs/method.md, Training)."""

import dataclasses
import functools
import gc
import logging
import math
import sys
import weakref
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags
from grain.experimental import DatasetOptions, WithOptionsIterDataset, index_shuffle
from jaxtyping import Int64, UInt8, UInt32

from flsl_jax.data.decode import DecodeError, base_crop, decode_image
from flsl_jax.data.records import Source
from flsl_jax.data.sharing import ChunkMemory, SharedChunk, SharingReader, open_memory
from flsl_jax.data.streams import Stream, bit_generator, check_seed
from flsl_jax.data.workers import start_worker
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# How many records are tried for one sample before the data set counts as broken.
_MAX_TRIES = 16
# The size of what a worker sends at a time, and how many of these grain requests from each worker in advance.
_CHUNK_BYTES = 2 << 20
_CHUNKS_AHEAD = 2
# grain's index shuffle draws from at least 2¹⁶ numbers until one is in range; with 200 records this takes 0.15 ms per record.
_SMALL = 1 << 16


@dataclasses.dataclass(frozen=True)
class Replacement:
    """A record that could not be read: the sample it was meant for, its number, and the reason, which names the file."""

    sample: int
    record: int
    reason: str


@dataclasses.dataclass(frozen=True)
class HostBatch:
    """One process's share of a batch.

    `images`: uint8 RGB. `sample`: step · B + position in the global batch, modulo 2³²; it keys every random draw. `record`:
    the number of the record that was used. `replaced`: the records that could not be read.
    """

    images: UInt8[np.ndarray, "b S S 3"]
    sample: UInt32[np.ndarray, " b"]
    record: Int64[np.ndarray, " b"]
    replaced: tuple[Replacement, ...] = ()


@dataclasses.dataclass(frozen=True)
class GlobalOrder:
    """The order in which all processes together see the records.

    It takes O(1) memory and gives access to any step. Every pass has its own permutation, keyed by (seed, pass): grain's
    index shuffle or, for small data sets, where that is slow, a sort by random keys. Batch k of a pass consists of records
    k·B … (k+1)·B - 1 of the permutation; records that do not fill a batch are left out of that pass.

    Raises:
        ValueError: the seed is not from 0 to 2³² - 1.
    """

    num_records: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    def steps_per_pass(self) -> int:
        return self.num_records // self.batch_size

    def records(self, step: int, start: int, stop: int) -> Int64[np.ndarray, " b"]:
        """Record numbers at the positions `start` … `stop` - 1 of a step's global batch; steps count over all passes."""
        number, batch = divmod(step, self.steps_per_pass)
        first = batch * self.batch_size
        if self.num_records <= _SMALL:
            return _permutation(self.num_records, seed=self.seed, number=number)[first + start : first + stop].copy()
        seed = _pass_seed(self.seed, number)
        return np.array(
            [_shuffled(first + i, num_records=self.num_records, seed=seed) for i in range(start, stop)], dtype=np.int64
        )


def _shuffled(index: int, *, num_records: int, seed: int) -> int:
    """Grain's index shuffle of 0 … `num_records` - 1."""
    last = num_records - 1
    # In grain 0.2.18 the result is not a permutation if the last index is 4^k: that index never occurs, another one twice.
    # So for a power of 2 one more number is shuffled, and an index that maps to the additional number is mapped once more.
    wider = last + 1 if last & (last - 1) == 0 else last
    index = index_shuffle(index, max_index=wider, seed=seed, rounds=4)
    return index if index <= last else index_shuffle(index, max_index=wider, seed=seed, rounds=4)


@functools.lru_cache(maxsize=4)
def _permutation(num_records: int, *, seed: int, number: int) -> Int64[np.ndarray, " n"]:
    """A whole permutation, drawn from the bit generator itself, because NumPy guarantees its stream."""
    keys = bit_generator(Stream.ORDER, seed=seed, number=number).random_raw(num_records)
    return np.argsort(keys, kind="stable").astype(np.int64)


@functools.lru_cache(maxsize=16)
def _pass_seed(seed: int, number: int) -> int:
    """A 32-bit seed, mixed such that the second pass of one seed differs from the first pass of the next."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def sample_rng(*, seed: int, sample: int) -> np.random.Generator:
    """The host's random numbers for one sample, keyed by (seed, global sample index) and by nothing else."""
    return np.random.Generator(bit_generator(Stream.SAMPLE, seed=seed, number=sample))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ChunkReader:
    """The work of a worker: reads one chunk of this process's share. The result depends on the fields and the index only."""

    source: Source
    order: GlobalOrder
    first: int
    local_size: int
    chunk_size: int
    crop_size: int
    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: bool

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_size * 3 * self.crop_size**2

    @property
    def chunks_per_batch(self) -> int:
        return math.ceil(self.local_size / self.chunk_size)

    def __call__(self, index: int) -> dict[str, object]:
        step, chunk = divmod(index, self.chunks_per_batch)
        start = self.first + chunk * self.chunk_size
        stop = min(start + self.chunk_size, self.first + self.local_size)
        records = self.order.records(step, start, stop)
        images = np.empty((stop - start, self.crop_size, self.crop_size, 3), np.uint8)
        replaced: list[Replacement] = []
        for i in range(stop - start):
            sample = (step * self.order.batch_size + start + i) % 2**32
            records[i] = self._read(images[i], record=int(records[i]), sample=sample, replaced=replaced)
        return {"images": images, "records": records, "replaced": tuple(replaced)}

    def _read(self, out: np.ndarray, *, record: int, sample: int, replaced: list[Replacement]) -> int:
        """Fills `out` from `record` or the next readable one; returns its number, or -1 if there is none nearby."""
        for _ in range(min(_MAX_TRIES, self.order.num_records)):
            try:
                image = self._decoded(record)
            except (DecodeError, OSError) as error:
                replaced.append(Replacement(sample=sample, record=record, reason=str(error)))
                record = (record + 1) % self.order.num_records
                continue
            rng = sample_rng(seed=self.order.seed, sample=sample)
            crop = base_crop(image, rng=rng, size=self.crop_size, area=self.area, aspect=self.aspect, flip=self.flip)
            out[...] = crop.image
            return record
        return -1

    def _decoded(self, record: int) -> np.ndarray:
        item = self.source[record]
        if isinstance(item.image, np.ndarray):
            return item.image
        # Large enough that every crop has at least twice its final size in pixels, whatever area and aspect are drawn.
        narrowest = math.sqrt(self.area[0] * min(self.aspect[0], 1 / self.aspect[1], 1.0))
        return decode_image(item.image, name=item.name, min_side=math.ceil(2 * self.crop_size / narrowest))


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
        workers: processes to start that read and decode; with 0, the calling thread does it.
        process_index, process_count: the number of this process, and how many there are.
        on_corrupt: "replace" logs a record that cannot be read and takes the next readable one in the data set's own order;
            "fail" ends the run.

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
        workers: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        on_corrupt: str = "replace",
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
        self._reader = _ChunkReader(
            source=source,
            order=GlobalOrder(num_records=len(source), batch_size=batch_size, seed=seed),
            first=process_index * local_size,
            local_size=local_size,
            chunk_size=max(1, min(local_size, _CHUNK_BYTES // (3 * crop_size**2))),
            crop_size=crop_size,
            area=area,
            aspect=aspect,
            flip=flip,
        )
        self._workers, self._on_corrupt = workers, on_corrupt
        self._corrupt: set[int] = set()

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
        return len(self._corrupt)

    def batches(self, start_step: int = 0, num_steps: int | None = None) -> "Batches":
        """The batches from `start_step` on; steps count over all passes. There is no end if `num_steps` is None.

        Workers start with the first batch. They stop when the iterator ends, is closed (`contextlib.closing`) or is deleted.
        """
        per_batch = self._reader.chunks_per_batch
        stop_step = sys.maxsize // per_batch if num_steps is None else start_step + num_steps
        workers = min(self._workers, (stop_step - start_step) * per_batch)
        memory = open_memory(workers=workers, slot_bytes=self._reader.chunk_bytes) if workers else None
        chunks = iter(self._chunks(start_step * per_batch, stop_step * per_batch, memory=memory, workers=workers))
        assemble = functools.partial(self._assemble, memory=memory)
        return Batches(chunks, steps=range(start_step, stop_step), assemble=assemble, memory=memory)

    def _chunks(self, start: int, stop: int, *, memory: ChunkMemory | None, workers: int) -> grain.IterDataset:
        read: Callable[[int], dict[str, object]] = self._reader
        if memory is not None:
            read = SharingReader(read=self._reader, memory=memory, first=start, workers=workers)
        dataset = grain.MapDataset.range(start, stop).map(read)
        chunks = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
        # Chunks stay whole and in order: each of the W workers reads every W-th chunk, and grain asks them in turn.
        if workers:
            if not flags.FLAGS.is_parsed():  # grain reads absl flags of its own, which are parsed only by a command
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_CHUNKS_AHEAD)
            chunks = chunks.mp_prefetch(options, worker_init_fn=start_worker)
        return WithOptionsIterDataset(chunks, DatasetOptions(min_shm_size=sys.maxsize))

    def _assemble(self, step: int, chunks: grain.DatasetIterator, *, memory: ChunkMemory | None) -> HostBatch:
        """One batch from its chunks; those in shared memory are copied out, which frees their place."""
        reader = self._reader
        images = np.empty((reader.local_size, reader.crop_size, reader.crop_size, 3), np.uint8)
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
        self._report(replaced, exhausted=bool((records < 0).any()))
        sample = np.arange(reader.local_size, dtype=np.int64) + step * reader.order.batch_size + reader.first
        return HostBatch(
            images=images, sample=(sample % 2**32).astype(np.uint32), record=records, replaced=tuple(replaced)
        )

    def _report(self, replaced: list[Replacement], *, exhausted: bool) -> None:
        name = self._reader.source.name
        for item in replaced:
            if self._on_corrupt == "fail":
                raise UserError(
                    f"record {item.record} of {name} cannot be read: {item.reason}; remove or repair it, or set "
                    "config.data.on_corrupt=replace"
                )
            if item.record not in self._corrupt:
                self._corrupt.add(item.record)
                log.warning(
                    "record %d of %s cannot be read and is replaced by the next (%d such records so far): %s",
                    item.record,
                    name,
                    len(self._corrupt),
                    item.reason,
                )
        if exhausted:
            last = replaced[-1]
            raise UserError(
                f"{name}: no readable record among {_MAX_TRIES} in a row, up to record {last.record} ({last.reason}); "
                "check that these are images"
            )


class Batches(Iterator[HostBatch]):
    """The iterator that `Loader.batches` returns.

    Raises (from `next`):
        UserError: a record cannot be read, and either `on_corrupt` is "fail" or the records after it cannot be read either.
    """

    def __init__(
        self,
        chunks: grain.DatasetIterator,
        *,
        steps: range,
        assemble: Callable[[int, grain.DatasetIterator], HostBatch],
        memory: ChunkMemory | None,
    ) -> None:
        self._steps, self._assemble = iter(steps), assemble
        self._chunks = [chunks]
        # The finalizer also runs at exit, before the interpreter shuts down; later, grain could not stop its workers any more.
        self._stop = weakref.finalize(self, _stop, self._chunks, memory)

    def __next__(self) -> HostBatch:
        step = next(self._steps, None)
        if step is None or not self._stop.alive:
            self.close()
            raise StopIteration
        return self._assemble(step, self._chunks[0])

    def close(self) -> None:
        """Stops the workers; no further batches follow."""
        self._stop()


def _stop(chunks: list[grain.DatasetIterator], memory: ChunkMemory | None) -> None:
    try:
        chunks.pop().close()
    finally:
        if memory is not None:
            gc.collect()  # grain's iterators close again when they are deleted, which must not happen at the interpreter's exit
            memory.close()
