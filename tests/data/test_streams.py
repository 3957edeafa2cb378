"""Which random numbers share a key, and which seeds there are."""

import jax
import numpy as np
import pytest

from flsl_jax.data.streams import Stream, bit_generator, check_seed

LARGEST = 2**32 - 1


def first_numbers(stream: Stream, *, seed: int, number: int) -> tuple[int, ...]:
    return tuple(bit_generator(stream, seed=seed, number=number).random_raw(4).tolist())


def test_no_epoch_shares_its_numbers_with_a_sample_or_with_another_seed() -> None:
    seeds, numbers = (0, 1, 2**31, LARGEST), (0, 1, 2, 2**32 - 1)
    keys = [(stream, seed, number) for stream in Stream for seed in seeds for number in numbers]
    drawn = {first_numbers(stream, seed=seed, number=number) for stream, seed, number in keys}
    assert len(drawn) == len(keys)


def test_the_order_of_epochs_has_the_keys_of_the_first_version() -> None:
    expected = np.random.Philox(key=np.array([7, 3], np.uint64)).random_raw(4)
    assert first_numbers(Stream.ORDER, seed=7, number=3) == tuple(expected.tolist())


@pytest.mark.parametrize("seed", [0, 2**31 - 1, 2**31, LARGEST])
def test_a_seed_of_32_bits_is_another_on_the_devices_too(seed: int) -> None:
    check_seed(seed)
    assert jax.random.key_data(jax.random.key(seed)).tolist() == [0, seed]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40])
def test_a_larger_seed_which_the_devices_would_take_for_another_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}; expected 0 to 4294967295"):
        bit_generator(Stream.SAMPLE, seed=seed, number=0)
