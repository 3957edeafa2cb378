"""Runs whose newest checkpoint is damaged go on from the one before, and end with the same numbers."""

import logging

import chex
import pytest

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from tests.checkpoints.test_damage import cut, every_file, flip, largest
from tests.tiny import tiny_config


def test_a_run_with_a_damaged_checkpoint_ends_as_an_undisturbed_one(tmp_path, caplog):
    """Of three, the newest does not even list its arrays, the one before has a flipped bit in them."""
    caplog.set_level(logging.INFO, "flsl_jax")
    train(tiny_config(stop_at_step=8), workdir=tmp_path / "undisturbed")
    train(tiny_config(stop_at_step=6), workdir=tmp_path / "damaged")
    folder = tmp_path / "damaged" / "checkpoints"
    every_file("state/_METADATA", cut)(folder / "6")
    largest("state/ocdbt.process_0/d/*", flip)(folder / "4")
    train(tiny_config(stop_at_step=8), workdir=tmp_path / "damaged")
    for text in (
        "step 6 is damaged: state/_METADATA",
        "step 4 is damaged: ",
        "continuing from the checkpoint of step 2",
    ):
        assert text in caplog.text
    states = [read_checkpoint(tmp_path / name / "checkpoints", step=8)[1] for name in ("undisturbed", "damaged")]
    chex.assert_trees_all_equal(*states)
    assert sorted(path.name for path in (tmp_path / "damaged" / "checkpoints_damaged").iterdir()) == ["4", "6"]


def test_with_no_good_checkpoint_left_a_run_is_refused(tmp_path):
    train(tiny_config(stop_at_step=1), workdir=tmp_path)
    every_file("run/metadata", cut)(tmp_path / "checkpoints" / "1")
    with pytest.raises(
        UserError, match=r"checkpoint in .* is damaged \(step 1: run/metadata is damaged\); put a whole one"
    ):
        train(tiny_config(), workdir=tmp_path)
