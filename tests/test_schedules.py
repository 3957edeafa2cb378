"""Schedules against closed forms."""

import jax
import numpy as np
import pytest

from flsl_jax.schedules import Schedule


def test_cosine_goes_half_a_period_and_holds_its_end():
    schedule = Schedule(start=2.0, end=1.0, steps=100)
    for step in (0, 10, 50, 99, 100, 500):
        expected = 1.0 + 0.5 * (1 + np.cos(np.pi * min(step, 100) / 100))
        np.testing.assert_allclose(schedule(step), expected, rtol=1e-6)


def test_linear_and_constant():
    linear = Schedule(kind="linear", start=0.04, end=0.07, steps=30)
    np.testing.assert_allclose([linear(step) for step in (0, 15, 30, 99)], [0.04, 0.055, 0.07, 0.07], rtol=1e-6)
    constant = Schedule(kind="constant", start=0.04, end=9.0, steps=30)
    np.testing.assert_allclose([constant(step) for step in (0, 99)], 0.04, rtol=1e-6)


def test_warm_up_rises_linearly_and_the_curve_takes_what_is_left():
    schedule = Schedule(start=1.0, end=0.0, steps=110, warmup_steps=10)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10)], [0.0, 0.5, 1.0], rtol=1e-6)
    np.testing.assert_allclose(schedule(60), 0.5, rtol=1e-6)
    np.testing.assert_allclose(schedule(110), 0.0, atol=1e-7)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_a_traced_step_gives_the_same_values(kind):
    schedule = Schedule(kind=kind, start=0.996, end=1.0, steps=7, warmup_steps=2)
    traced = jax.jit(schedule.__call__)
    for step in range(10):
        np.testing.assert_allclose(traced(step), schedule(step), rtol=1e-6)
