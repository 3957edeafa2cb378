"""Reading ahead: the order, how far ahead, and what happens when it ends early."""

import logging
import threading
import time

import numpy as np
import pytest

from flsl_jax.data.records import Record
from flsl_jax.evaluation.reading import ImageStream, computed_ahead


def test_values_come_in_the_order_of_the_keys_whatever_takes_longest():
    def slow_at_first(key):
        time.sleep(0.02 / (key + 1))
        return key**2

    assert list(computed_ahead(slow_at_first, range(20), ahead=5)) == [key**2 for key in range(20)]
    assert list(computed_ahead(slow_at_first, [], ahead=5)) == []


def test_no_more_is_computed_than_asked_for_and_ahead():
    called, lock = [], threading.Lock()

    def note(key):
        with lock:
            called.append(key)
        return key

    values = computed_ahead(note, range(1000), ahead=7)
    assert [next(values) for _ in range(3)] == [0, 1, 2]
    values.close()
    assert sorted(called) == list(range(len(called)))
    assert 3 <= len(called) <= 3 + 7


def test_an_error_comes_in_its_turn():
    values = computed_ahead(lambda key: 1 // (2 - key), range(4), ahead=9)
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(values)


class _Numbers:
    """Records 0 to 5: those with an odd number are not wanted, and number 4 is damaged."""

    name, class_names, digest = "numbers", (), ""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = b"no image" if index == 4 else np.full((8, 8, 3), index, np.uint8)
        return Record(name=str(index), image=image)


def test_it_is_told_once_how_many_images_lack_what_is_needed(caplog):
    caplog.set_level(logging.INFO, "flsl_jax")
    stream = ImageStream(
        _Numbers(), lambda record, pixels: (pixels,), wanted=lambda record: int(record.name) % 2 == 0, lacking="",
        lacks="no even number",
    )  # fmt: skip
    assert [[int(item[0][0, 0, 0]) for item in stream] for _ in range(2)] == [[0, 2], [0, 2]]
    told = [message for message in caplog.messages if "even" in message]
    assert told == ["numbers: left out 3 of 6 images, which have no even number"]
