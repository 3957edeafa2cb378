"""Two fine-tuning runs in one workdir: the second is refused; what a dead one left is taken over."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.errors import UserError
from flsl_jax.training.keeping.interrupt import Interrupt
from flsl_jax.training.keeping.lock_file import LOCK_FILE, held
from tests.transfer.test_fine_tuning import run, tiny
from tests.transfer.test_processes import command
from tests.weights.test_initial import random_backbone, save


def test_a_second_process_is_refused_in_one_line_and_a_dead_ones_lock_is_taken_over(tmp_path):
    backbone, workdir = save(tmp_path / "x.safetensors", *random_backbone()), tmp_path / "run"
    arguments = command(backbone, workdir, steps=1)
    alone = [sys.executable, *arguments[arguments.index("tests.transfer.command") - 1 :]]
    holder = "import sys; from pathlib import Path; from flsl_jax.training.keeping.lock_file import held\n"
    holder += "with held(Path(sys.argv[1]), is_first=True, agreed=bool): print('held', flush=True); input()"
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as first:
        assert first.stdout.readline() == "held\n"
        second = subprocess.run(alone, capture_output=True, text=True, timeout=300, cwd=root)
        assert second.returncode == 2
        errors = [line for line in second.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, second.stderr
        assert f"{workdir} is in use by process {first.pid}" in errors[0]
        assert "Traceback" not in second.stderr
        assert [path.name for path in workdir.iterdir()] == [LOCK_FILE]
        first.send_signal(signal.SIGKILL)
    third = subprocess.run(alone, capture_output=True, text=True, timeout=300, cwd=root)
    assert third.returncode == 0, third.stderr
    assert f"was left locked by process {first.pid}" in third.stderr
    assert not (workdir / LOCK_FILE).exists()
    assert (workdir / "result.json").exists()


def test_nothing_is_written_where_another_run_is(tmp_path):
    workdir = tmp_path / "run"
    with held(workdir, is_first=True, agreed=bool):
        with pytest.raises(UserError, match=rf"run is in use by process {os.getpid()} on .*; end that"):
            run(tiny(), workdir)
        assert [path.name for path in workdir.iterdir()] == [LOCK_FILE]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run(tiny(), tmp_path / "file")


def test_a_run_that_another_has_taken_over_saves_nothing(tmp_path, monkeypatch):
    def taken_over(interrupt, step):
        (tmp_path / LOCK_FILE).write_text(json.dumps({"host": "another", "process": 7, "token": "another"}))
        return True

    monkeypatch.setattr(Interrupt, "requested", taken_over)
    with pytest.raises(UserError, match="was taken over by process 7 on another"):
        run(tiny(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert json.loads((tmp_path / LOCK_FILE).read_text())["host"] == "another"
