"""Which records a step reads, and what random numbers its samples have: functions of seed, step and sample alone."""

import dataclasses
import functools

import numpy as np
from grain.experimental import index_shuffle
from jaxtyping import Int64

from flsl_jax.data.streams import Stream, bit_generator, check_seed

# grain's index shuffle draws from at least 2¹⁶ numbers until one is in range; with 200 records this takes 0.15 ms per record.
_SMALL = 1 << 16


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


def substitutes(*, num_records: int, seed: int, sample: int, count: int) -> Int64[np.ndarray, " count"]:
    """Records, each drawn from all, that stand in for a sample's own one; keyed by (seed, global sample index)."""
    words = bit_generator(Stream.SUBSTITUTE, seed=seed, number=sample).random_raw(count)
    return (words % np.uint64(num_records)).astype(np.int64)
