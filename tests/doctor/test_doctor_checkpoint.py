"""Workdirs of a real run, whole and damaged: what a training would do with each is said before it does it."""

import os
import shutil
from collections import namedtuple

import pytest

from flsl_jax.data.sources.opening import open_source
from flsl_jax.doctor import checkpoint as doctor
from flsl_jax.doctor.config import examine as examine_config
from flsl_jax.doctor.finding import Examination
from flsl_jax.loop import train
from flsl_jax.training.keeping.lock import locked
from tests.checkpoints.test_damage import cut, every_file, flip, largest
from tests.tiny import tiny_config

CONFIG = tiny_config(stop_at_step=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with checkpoints of the steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("trained")
    train(CONFIG, workdir=workdir)
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def examined(workdir, config=CONFIG):
    exam = Examination()
    training = examine_config(Examination(), config, begins=False)
    doctor.examine_folder(exam, workdir, config=config, training=training)
    doctor.examine(exam, workdir, config=config, training=training, source=open_source(config.data))
    return exam.findings


def named(name, findings):
    return [finding for finding in findings if finding.name == name]


def test_a_whole_run_is_green_and_says_where_it_is(workdir):
    findings = examined(workdir)
    assert [finding.name for finding in findings if finding.colour != "green"] == ["run/monitor"]
    (whole,), (fits,), (continues,) = (
        named(f"checkpoint/{name}", findings) for name in ("whole", "shapes", "continues")
    )
    assert (
        whole.found
        == "the newest, of step 4, is intact; every array is as it was saved; 1 older looks whole by the files"
    )
    assert "arrays have the shapes of this config" in fits.found
    assert continues.found == "step 4 of 4: the run is finished"
    assert "has 4 lines, the last one of step 4" in named("run/metrics", findings)[0].found
    (later,) = named("checkpoint/continues", examined(workdir, tiny_config()))
    assert later.found.startswith(
        "step 4 of 12: the same command goes on from there to step 12; changed since then: stop_at"
    )


def test_before_its_first_step_a_run_has_no_checkpoint(tmp_path):
    findings = examined(tmp_path / "new" / "run")
    assert {finding.colour for finding in findings} == {"green"}
    assert [finding.found for finding in named("checkpoint/whole", findings)] == [
        "none yet: a training begins at step 0"
    ]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (largest("state/ocdbt.process_0/d/*", flip), ""),
        (every_file("run/metadata", cut), "run/metadata is damaged"),
        (every_file("_CHECKPOINT_METADATA", lambda path: path.unlink()), "no commit mark"),
    ],
    ids=["a flipped bit", "a description cut off", "no commit mark"],
)
def test_a_damaged_newest_checkpoint_is_yellow_while_an_older_one_is_good(workdir, damage, what):
    damage(workdir / "checkpoints" / "4")
    findings = examined(workdir)
    damaged, good = named("checkpoint/whole", findings)
    assert damaged.colour == "yellow"
    assert damaged.found.startswith("the checkpoint of step 4 is damaged: ")
    assert what in damaged.found
    assert "goes on from step 2" in damaged.advice
    assert good.found == "the newest, of step 2, is intact; every array is as it was saved"
    assert named("checkpoint/continues", findings)[0].found.startswith("step 2 of 4")
    assert (workdir / "checkpoints" / "4").is_dir(), "nothing is moved"


def test_a_damaged_older_checkpoint_is_not_needed(workdir):
    every_file("run/metadata", cut)(workdir / "checkpoints" / "2")
    damaged, good = named("checkpoint/whole", examined(workdir))
    assert damaged.advice == "it is not needed: delete it"
    assert "of step 4, is intact" in good.found


def test_with_no_good_checkpoint_left_it_is_red(workdir):
    for step in ("2", "4"):
        every_file("state/ocdbt.process_0/d/*", flip)(workdir / "checkpoints" / step)
    findings = named("checkpoint/whole", examined(workdir))
    assert [finding.colour for finding in findings] == ["red", "red"]
    for step in ("2", "4"):
        every_file("run/metadata", cut)(workdir / "checkpoints" / step)
    (finding,) = named("checkpoint/files", examined(workdir))
    assert finding.colour == "red"
    assert "all 2 checkpoints in" in finding.found


def test_another_network_and_another_learning_rate_are_red(workdir):
    findings = examined(workdir, tiny_config(model={"width": 64}))
    (shapes,), (continues,) = named("checkpoint/shapes", findings), named("checkpoint/continues", findings)
    assert (shapes.colour, continues.colour) == ("red", "red")
    assert "does not fit this config" in shapes.found
    assert "model.width 32 → 64" in continues.found
    (continues,) = named("checkpoint/continues", examined(workdir, tiny_config(optimizer={"lr": 0.1})))
    assert "optimizer.lr 0.005 → 0.1" in continues.found
    assert "--allow_changes=optimizer.lr" in continues.found + continues.advice
    (continues,) = named("checkpoint/continues", examined(workdir, tiny_config(stop_at_step=3)))
    assert "nothing is left to do" in continues.found + continues.advice


def test_torn_lines_of_metrics_and_alarms_are_yellow(workdir):
    with (workdir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 5, "lo\n')
    config = tiny_config(stop_at_step=4, logging={"every_steps": 1})
    (metrics,) = named("run/metrics", examined(workdir, config))
    assert (metrics.colour, metrics.found) == ("yellow", "metrics.jsonl has 4 lines and 1 that are no metrics")
    lines = [f'{{"step": {step}, "epoch": 3.0, "mean_entropy": 0.1}}\n' for step in range(5, 12)]
    (workdir / "metrics.jsonl").write_text("".join(lines))
    alarm, *_ = named("run/monitor", examined(workdir, config))
    assert alarm.colour == "yellow"
    assert alarm.found.startswith("one_centroid at step 7: collapse to few centroids: H(p̄) is 3% of ln K")
    assert "config.objective.volume_weight" in alarm.advice


def test_a_workdir_that_is_a_file_or_holds_one_for_checkpoints_is_red(tmp_path):
    (tmp_path / "file").write_text("")
    assert [(finding.name, finding.colour) for finding in examined(tmp_path / "file" / "run")] == [
        ("workdir/folder", "red")
    ]
    (tmp_path / "checkpoints").write_text("")
    (finding,) = named("checkpoint/files", examined(tmp_path))
    assert finding.colour == "red"
    assert "it is not a folder" in finding.found


def test_a_run_that_is_under_way_is_said(workdir):
    with locked(workdir):
        (finding,) = named("workdir/use", examined(workdir))
    assert finding.colour == "yellow"
    assert finding.found.startswith(f"process {os.getpid()} on ")
    assert not named("workdir/use", examined(workdir))


@pytest.mark.parametrize(("free", "colour"), [(2**40, "green"), (2**20, "yellow"), (2**14, "red")])
def test_room_is_compared_with_what_the_run_keeps(workdir, monkeypatch, free, colour):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**41, 0, free))
    config = tiny_config(stop_at_step=4, checkpoint={"keep": 100})
    (finding,) = named("workdir/room", examined(workdir, config))
    assert finding.colour == colour
    assert "and the run keeps 101" in finding.found


def test_a_folder_that_may_not_be_written_is_red(workdir, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    (finding,) = named("workdir/folder", examined(workdir))
    assert finding.colour == "red"
    assert finding.found.endswith("cannot be written")
