"""Saves that fail: said in a line, tried again while training goes on, given up after a time; never a hang or a traceback."""

import errno
import logging
import os
import subprocess

import chex
import jax
import pytest

from flsl_jax.checkpoints import Checkpoints, Saving, read_checkpoint
from flsl_jax.checkpoints import saving as saving_module
from flsl_jax.checkpoints.digests import DigestHandler
from flsl_jax.errors import UserError
from tests.checkpoints.disks import fill
from tests.checkpoints.test_damage import empty, every_file, make_state


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(saving_module, "FIRST_PAUSE", 0.3)


def open_saving(workdir, give_up_minutes=60.0):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=2)
    return checkpoints, Saving(checkpoints, give_up_minutes=give_up_minutes)


def save(saving, step):
    saving.save(step, make_state(step), run={"step": step})


def failing(monkeypatch):
    """Every write of digests fails, in orbax's thread, until the returned function is called."""
    write = DigestHandler._write

    async def full(self, directory, args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DigestHandler, "_write", full)
    return lambda: monkeypatch.setattr(DigestHandler, "_write", write)


def messages(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_write_that_fails_is_tried_again_with_the_state_of_then(tmp_path, monkeypatch, caplog):
    checkpoints, saving = open_saving(tmp_path)
    save(saving, 1)
    saving.finish(lambda: None)
    mend = failing(monkeypatch)
    save(saving, 2)
    while not saving.retry_due(2):
        pass
    assert read_checkpoint(tmp_path / "checkpoints")[0] == 1
    mend()
    save(saving, 3)
    saving.finish(lambda: None)
    assert not saving.retry_due(4)
    checkpoints.close()
    assert not list((tmp_path / "checkpoints").glob("*.orbax*")), "nothing is left of the one that failed"
    step, state, _ = read_checkpoint(tmp_path / "checkpoints")
    assert step == 3
    chex.assert_trees_all_equal(state, jax.device_get(make_state(3)))
    first, *_, last = messages(caplog)
    assert "step 2 could not be written" in first
    assert "No space left on device); the last good one is of step 1; it is tried again in" in first
    assert last == "the checkpoint of step 3 is written; saving works again"


def test_pauses_grow_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(saving_module, "FIRST_PAUSE", 10.0)
    _, saving = open_saving(tmp_path)
    pauses = []
    for step in range(8):
        pauses.append(saving._pause)
        saving._failed(step, "a reason")
    assert pauses == [10, 20, 40, 80, 160, 300, 300, 300]
    assert not saving.retry_due(8)


def test_the_end_of_a_run_waits_until_its_state_is_saved(tmp_path, monkeypatch):
    checkpoints, saving = open_saving(tmp_path)
    mend = failing(monkeypatch)
    save(saving, 5)
    tries = []

    def again():
        tries.append(1)
        if len(tries) > 2:
            mend()
        save(saving, 5)

    saving.finish(again)
    checkpoints.close()
    assert len(tries) >= 3
    assert read_checkpoint(tmp_path / "checkpoints")[0] == 5


def test_after_a_time_the_run_ends_in_one_line(tmp_path, monkeypatch):
    _, saving = open_saving(tmp_path, give_up_minutes=0.0)
    save(saving, 1)
    saving.finish(lambda: None)
    failing(monkeypatch)
    save(saving, 2)
    with pytest.raises(
        UserError, match=r"step 2 could not be written .*No space left.* of step 1; make room"
    ) as raised:
        saving.finish(lambda: None)
    assert len(str(raised.value).splitlines()) == 1


def test_a_full_disk(small_disk, caplog):
    checkpoints, saving = open_saving(small_disk)
    ballast = small_disk / "ballast"
    fill(ballast)
    os.truncate(ballast, ballast.stat().st_size - 70_000)  # a save can begin, and not end
    for step in (2, 3):
        save(saving, step)
        while not saving.retry_due(step):
            pass
    fill(ballast)
    with pytest.raises(UserError, match=r"cannot be written .*No space left on device"):
        open_saving(small_disk)
    ballast.unlink()
    save(saving, 4)
    saving.finish(lambda: None)
    checkpoints.close()
    assert read_checkpoint(small_disk / "checkpoints")[0] == 4
    assert all("No space left on device" in line for line in messages(caplog)[:-1]), messages(caplog)


def test_a_disk_without_room_for_one_more_is_found_out_before(small_disk, caplog):
    checkpoints, saving = open_saving(small_disk)
    state = {"kernel": jax.random.normal(jax.random.key(0), (256, 512))}
    saving.save(1, state, run={})
    saving.finish(lambda: None)
    ballast = small_disk / "ballast"
    fill(ballast)
    os.truncate(ballast, ballast.stat().st_size - 300_000)
    save(saving, 2)
    assert (
        "(No space left on device: 0.3 MiB free, a checkpoint takes 0.5); the last good one is of step 1" in caplog.text
    )
    ballast.unlink()
    saving.save(3, state, run={})
    saving.finish(lambda: None)
    checkpoints.close()
    assert read_checkpoint(small_disk / "checkpoints")[0] == 3


def test_a_disk_that_becomes_read_only(small_disk, caplog):
    checkpoints, saving = open_saving(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    save(saving, 1)
    assert "Read-only file system); there is none before it" in caplog.text
    with pytest.raises(UserError, match=r"cannot be written .*Read-only file system"):
        open_saving(small_disk)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    save(saving, 2)
    saving.finish(lambda: None)
    checkpoints.close()
    assert read_checkpoint(small_disk / "checkpoints")[0] == 2


def test_a_workdir_that_vanishes_and_comes_back(tmp_path, caplog):
    workdir = tmp_path / "run"
    workdir.mkdir()
    checkpoints, saving = open_saving(workdir)
    save(saving, 1)
    saving.finish(lambda: None)
    workdir.rename(tmp_path / "elsewhere")
    save(saving, 2)
    assert "run is gone); the last good one is of step 1" in caplog.text
    assert not workdir.exists(), "a disk may be missing there"
    (tmp_path / "elsewhere").rename(workdir)
    save(saving, 3)
    saving.finish(lambda: None)
    checkpoints.close()
    assert read_checkpoint(workdir / "checkpoints")[0] == 3


def test_checkpoints_is_a_file(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"checkpoints cannot be written .it is not a folder"):
        open_saving(tmp_path)


def test_the_last_words_are_verified(tmp_path):
    checkpoints, saving = open_saving(tmp_path)
    assert saving.last_words() == "there is no checkpoint"
    for step in (1, 2):
        save(saving, step)
    assert saving.last_words() == "the last checkpoint, of step 2, is intact"
    every_file("run/metadata", empty)(tmp_path / "checkpoints" / "2")
    assert saving.last_words() == (
        "the checkpoint of step 2 is damaged (run/metadata is damaged), the last good checkpoint, of step 1, is intact"
    )
    checkpoints.close()
