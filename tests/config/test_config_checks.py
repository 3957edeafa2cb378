"""What is allowed in a config and probably not meant."""

import logging

import pytest

from flsl_jax.config import advice
from flsl_jax.loop import train
from tests.tiny import tiny_config


@pytest.mark.parametrize("targets", ["sinkhorn", "centering"])
def test_targets_that_replace_the_volume_term_beside_it_are_told_of(targets):
    lines = advice(tiny_config(objective={"targets": targets}))
    assert len(lines) == 1
    assert f"config.objective.targets = '{targets}' stands in for the volume term" in lines[0]
    assert "config.objective.volume_weight is 5.0; set it to 0.0" in lines[0]


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"targets": "sinkhorn", "volume_weight": 0.0},
        {"targets": "sinkhorn", "volume_weight": 1.0},  # the paper's Table 5
    ],
)
def test_what_the_paper_has_is_not(objective):
    assert advice(tiny_config(objective=objective)) == []


def test_dino_has_no_volume_term():
    config = tiny_config(objective={"method": "dino", "targets": "centering"}, views={"recipe": "multicrop"})
    assert advice(config) == []


def test_a_run_begins_with_the_advice(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "flsl_jax")
    train(tiny_config(stop_at_step=1, objective={"targets": "sinkhorn"}), workdir=tmp_path)
    assert [line for line in caplog.messages if "volume" in line] == advice(
        tiny_config(objective={"targets": "sinkhorn"})
    )
