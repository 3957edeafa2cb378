"""Reading ahead: the order, how far ahead, and what happens when it ends early."""

import threading
import time

import pytest

from flsl_jax.evaluation.reading import computed_ahead


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
