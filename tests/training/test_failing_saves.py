"""Runs whose checkpoints cannot be written train on, and lose nothing where the disk is mended in time."""

import errno
import os

import chex
import pytest

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.checkpoints import saving as saving_module
from flsl_jax.checkpoints.digests import DigestHandler
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.workdir import read_metrics
from tests.checkpoints.disks import fill
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(saving_module, "FIRST_PAUSE", 0.1)


def test_a_run_goes_on_while_saves_fail_and_ends_as_an_undisturbed_one(tmp_path, monkeypatch, caplog):
    train(tiny_config(stop_at_step=6), workdir=tmp_path / "undisturbed")
    write, tries = DigestHandler._write, []

    async def fail_at_first(self, directory, args):
        tries.append(directory)
        if len(tries) <= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await write(self, directory, args)

    monkeypatch.setattr(DigestHandler, "_write", fail_at_first)
    outcome = train(tiny_config(stop_at_step=6), workdir=tmp_path / "run")
    assert outcome.step == 6
    assert "the checkpoint of step 2 could not be written" in caplog.text
    assert "saving works again" in caplog.text
    states = [read_checkpoint(tmp_path / name / "checkpoints", step=6)[1] for name in ("undisturbed", "run")]
    chex.assert_trees_all_equal(*states)


def test_a_run_that_cannot_save_for_too_long_ends_in_one_line(tmp_path, monkeypatch):
    async def fail(self, directory, args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DigestHandler, "_write", fail)
    with pytest.raises(
        UserError, match=r"could not be written .*, as none for config.checkpoint.give_up_minutes = 0.002"
    ):
        train(tiny_config(checkpoint={"give_up_minutes": 0.002}), workdir=tmp_path)


def test_on_a_full_disk_a_run_is_refused_in_one_line_and_goes_on_when_there_is_room(small_disk, monkeypatch):
    workdir, bounded = small_disk / "run", {"give_up_minutes": 1.0}
    train(tiny_config(stop_at_step=2, checkpoint=bounded, logging={"tensorboard": True}), workdir=workdir)
    fill(small_disk / "ballast")
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device"):
        train(tiny_config(stop_at_step=4, checkpoint=bounded), workdir=workdir)
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device"):
        train(tiny_config(stop_at_step=4, checkpoint=bounded), workdir=small_disk / "another")
    (small_disk / "ballast").unlink()
    train(tiny_config(stop_at_step=4, checkpoint=bounded), workdir=workdir)
    assert read_checkpoint(workdir / "checkpoints")[0] == 4
    assert [line["step"] for line in read_metrics(workdir / "metrics.jsonl")] == [1, 2, 3, 4]
