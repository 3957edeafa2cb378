"""Traces of the steps that a flag or a signal asks for."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from flsl_jax.training.watching.profiling import Profiler


def steps(profiler, numbers):
    """Steps of nothing much; returns whether each was traced."""
    traced = []
    for number in numbers:
        profiler.before(number)
        traced.append(profiler._tracing)
        profiler.after(number, {"loss": jax.jit(lambda x: x + 1)(jnp.float32(number))})
    return traced


def traces(folder):
    return list(folder.rglob("*.xplane.pb"))


def test_the_steps_of_the_flag_are_traced_and_no_others(tmp_path):
    with Profiler(tmp_path / "profile", steps=(2, 3)) as profiler:
        assert steps(profiler, range(1, 6)) == [False, True, True, False, False]
    assert len(traces(tmp_path)) == 1


def test_a_signal_asks_for_the_next_five_steps(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    with Profiler(tmp_path / "profile") as profiler:
        assert steps(profiler, (1,)) == [False]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert steps(profiler, range(2, 9)) == [True] * 5 + [False] * 2
    assert len(traces(tmp_path)) == 1
    assert signal.getsignal(signal.SIGUSR2) == before


@pytest.mark.parametrize("last", [9, 2])
def test_a_run_that_ends_within_a_trace_leaves_it(tmp_path, last):
    with Profiler(tmp_path / "profile", steps=(2, last)) as profiler:
        steps(profiler, (1, 2))
    assert len(traces(tmp_path)) == 1
