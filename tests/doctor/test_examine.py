"""The whole examination, in one process: it leaves everything as it was, and a broken part is one line of many."""

import hashlib

import pytest
from PIL import Image

from flsl_jax.doctor.examine import examine
from flsl_jax.doctor.finding import Examination
from flsl_jax.doctor.speed import Speed
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from tests.checkpoints.test_damage import flip, largest
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    speed = Speed(kind="cpu", dtype="float32", flops=[1e11], wrong=())
    monkeypatch.setattr("flsl_jax.doctor.speed.measure", lambda: speed)


def snapshot(folder):
    """Everything below a folder: times, sizes, contents."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.stat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[path] = (status.st_mtime_ns, status.st_ino, status.st_size, content)
    return found


def examined(config, workdir):
    exam = Examination()
    examine(exam, read_config=config, workdir=workdir)
    return exam


def test_nothing_on_the_disk_changes_even_where_training_would_move_things(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(32):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    config = tiny_config(stop_at_step=4, data={"name": "folder", "root": "photos", "count": 0, "scene_size": 0})
    train(config, workdir=tmp_path / "run")
    largest("state/ocdbt.process_0/d/*", flip)(tmp_path / "run" / "checkpoints" / "4")
    (tmp_path / "run" / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(b"torn")
    before = snapshot(tmp_path)
    exam = examined(lambda: config, tmp_path / "run")
    assert snapshot(tmp_path) == before
    assert exam.worst == "yellow"
    assert [finding.name.split("/")[0] for finding in exam.findings if finding.colour == "red"] == []
    groups = list(dict.fromkeys(finding.name.split("/")[0] for finding in exam.findings))
    assert groups == ["machine", "config", "data", "workdir", "checkpoint", "run"]


def test_without_a_config_the_machine_alone_is_examined(tmp_path):
    groups = {finding.name.split("/")[0] for finding in examined(None, None).findings}
    assert groups == {"machine"}


def test_a_wrong_config_is_one_red_line_and_the_folder_is_examined_all_the_same(tmp_path):
    def read():
        raise UserError("config.seed is -1; expected 0 or more")

    exam = examined(read, tmp_path)
    red = [finding for finding in exam.findings if finding.colour == "red"]
    assert [(finding.name, finding.found, finding.advice) for finding in red] == [
        ("config/values", "config.seed is -1", "expected 0 or more")
    ]
    assert {"workdir/folder", "workdir/room", "checkpoint/whole"} <= {finding.name for finding in exam.findings}


@pytest.mark.parametrize("part", ["flsl_jax.doctor.data.examine", "flsl_jax.doctor.checkpoint.examine"])
def test_a_part_that_breaks_is_one_line(tmp_path, monkeypatch, part):
    def broken(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(part, broken)
    exam = examined(lambda: tiny_config(), tmp_path)
    assert [finding.found for finding in exam.findings if "fault" in finding.found] == [
        "this check has itself failed (RuntimeError: a fault of ours)"
    ]
