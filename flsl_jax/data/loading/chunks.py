"""The work of a worker: a few samples of a batch at a time, each from its own record or, if that is damaged, from another."""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, base_crop, pixels_of
from flsl_jax.data.loading.order import GlobalOrder, sample_rng, substitutes
from flsl_jax.data.records import Source

# If a record cannot be read, the next ones in the data set's own order are tried, up to so many with the first. Neighbours are
# often damaged together, so that then others are drawn from the whole data set.
_NEIGHBOURS = 16
_DRAWS = 500


@dataclasses.dataclass(frozen=True)
class Replacement:
    """A record that could not be read: the sample it was meant for, its number, and the reason, which names the file."""

    sample: int
    record: int
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkReader:
    """Reads one chunk of this process's share of a batch. The result depends on the fields and the index only.

    A call may be given a function that is told of every record before it is read.
    """

    source: Source
    order: GlobalOrder
    first: int
    local_size: int
    chunk_size: int
    crop_size: int
    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: bool
    decoding: Decoding = RGB

    @property
    def chunk_bytes(self) -> int:
        """Of the images in a chunk."""
        return self.chunk_size * self.decoding.channels * self.crop_size**2

    @property
    def chunks_per_batch(self) -> int:
        """How many chunks make a batch; chunk c of step s has the index s · `chunks_per_batch` + c."""
        return math.ceil(self.local_size / self.chunk_size)

    def __call__(self, index: int, note: Callable[[int], None] = lambda record: None) -> dict[str, object]:
        step, chunk = divmod(index, self.chunks_per_batch)
        start = self.first + chunk * self.chunk_size
        stop = min(start + self.chunk_size, self.first + self.local_size)
        records = self.order.records(step, start, stop)
        images = np.empty((stop - start, self.crop_size, self.crop_size, self.decoding.channels), np.uint8)
        replaced: list[Replacement] = []
        for i in range(stop - start):
            sample = (step * self.order.batch_size + start + i) % 2**32
            records[i] = self._read(images[i], record=int(records[i]), sample=sample, replaced=replaced, note=note)
            if records[i] < 0:  # this ends the run
                records[i:] = -1
                break
        return {"images": images, "records": records, "replaced": tuple(replaced)}

    def _read(
        self,
        out: np.ndarray,
        *,
        record: int,
        sample: int,
        replaced: list[Replacement],
        note: Callable[[int], None],
    ) -> int:
        """Fills `out` from `record` or another readable one; returns its number, or -1 if none was found."""
        for candidate in self._candidates(record, sample=sample):
            note(candidate)
            try:
                image = self._decoded(candidate)
            except (DecodeError, OSError) as error:
                replaced.append(Replacement(sample=sample, record=candidate, reason=str(error)))
                continue
            rng = sample_rng(seed=self.order.seed, sample=sample)
            crop = base_crop(image, rng=rng, size=self.crop_size, area=self.area, aspect=self.aspect, flip=self.flip)
            out[...] = crop.image
            return candidate
        return -1

    def _candidates(self, record: int, *, sample: int) -> Iterator[int]:
        """The record, its neighbours, and others from anywhere, none of them twice."""
        count = self.order.num_records
        near = [(record + i) % count for i in range(min(_NEIGHBOURS, count))]
        yield from near
        if count > _NEIGHBOURS:
            drawn = substitutes(num_records=count, seed=self.order.seed, sample=sample, count=_DRAWS)
            yield from (number for number in dict.fromkeys(drawn.tolist()) if number not in near)

    def _decoded(self, record: int) -> np.ndarray:
        item = self.source[record]
        # Large enough that every crop has at least twice its final size in pixels, whatever area and aspect are drawn.
        narrowest = math.sqrt(self.area[0] * min(self.aspect[0], 1 / self.aspect[1], 1.0))
        min_side = math.ceil(2 * self.crop_size / narrowest)
        return pixels_of(item.image, name=item.name, decoding=self.decoding, min_side=min_side, page=item.page)
