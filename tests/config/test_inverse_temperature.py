"""The factor of the products of tokens, on both scales of the inverse temperatures."""

import pytest

from flsl_jax.config import ScheduleConfig, cross_inv_temp, self_inv_temp
from tests.tiny import tiny_config

PAPER = {"self_inv_temp": {"start": 1.96, "end": 19.6}, "cross_inv_temp": {"start": 3.92, "end": 3.92}}


def test_the_sum_takes_the_values_as_they_are():
    config = tiny_config(objective=PAPER)
    assert (self_inv_temp(config), cross_inv_temp(config)) == (
        config.objective.self_inv_temp,
        config.objective.cross_inv_temp,
    )


@pytest.mark.parametrize("width", [64, 384])
def test_the_mean_divides_by_the_width_and_keeps_the_schedule(width):
    own = {**PAPER["self_inv_temp"], "kind": "linear", "epochs": 2.0}
    config = tiny_config(model={"width": width}, objective={**PAPER, "self_inv_temp": own, "inv_temp_scale": "mean"})
    assert self_inv_temp(config) == ScheduleConfig(start=1.96 / width, end=19.6 / width, kind="linear", epochs=2.0)
    assert cross_inv_temp(config).end == 3.92 / width


def test_the_constants_of_the_release_are_those_of_the_docstring():
    config = tiny_config(model={"width": 384}, objective={**PAPER, "inv_temp_scale": "mean"})
    assert self_inv_temp(config).start == pytest.approx(0.1 / 384**0.5, rel=1e-3)
    assert cross_inv_temp(config).start == pytest.approx(0.2 / 384**0.5, rel=1e-3)
