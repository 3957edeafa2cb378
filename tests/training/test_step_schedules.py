"""Schedules in steps from the config's epochs."""

import pytest

from flsl_jax.errors import UserError
from flsl_jax.training.schedules import make_schedules
from tests.tiny import tiny_config


def test_a_run_of_more_steps_than_int32_counts_is_refused():
    config = tiny_config(epochs=100_000)
    assert make_schedules(config, steps_per_epoch=21_474).lr.steps == 2_147_400_000
    with pytest.raises(
        UserError, match=r"config.epochs = 100000 of 21475 steps are 2147500000 steps; expected at most"
    ):
        make_schedules(config, steps_per_epoch=21_475)
