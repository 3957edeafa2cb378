"""The random streams of the host, which a run's seed keys; on the devices, `jax.random.key(seed)` is the root of all."""

import enum

import numpy as np

from flsl_jax.config.ranges import LARGEST_SEED


class Stream(enum.IntEnum):
    """What the numbers are for. Streams of different kinds have no key in common."""

    ORDER = 0
    SAMPLE = 1
    SUBSTITUTE = 2


def check_seed(seed: int) -> None:
    """Refuses a seed of more than 32 bits: the devices would drop the upper ones, and take it for another seed.

    Raises:
        ValueError: the seed is not from 0 to 2³² - 1.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"seed is {seed}; expected 0 to {LARGEST_SEED}")


def bit_generator(stream: Stream, *, seed: int, number: int) -> np.random.Philox:
    """The random numbers of one epoch or of one sample.

    Args:
        stream: what they are for. Its number stands above the seed's 32 bits in the first word of the key.
        seed: the seed of the run, from 0 to 2³² - 1.
        number: the number of the epoch or sample, from 0 to 2⁶⁴ - 1.

    Raises:
        ValueError: the seed is not from 0 to 2³² - 1.
    """
    check_seed(seed)
    return np.random.Philox(key=np.array([stream << 32 | seed, number], dtype=np.uint64))
