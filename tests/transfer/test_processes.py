"""Fine-tuning in two processes that torchrun starts: one run, a signal to either stops both, and it continues exactly."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.errors import UserError
from flsl_jax.transfer.processes import start_fabric
from flsl_jax.transfer.trained import load_trained
from flsl_jax.workdir import read_metrics
from tests.weights.test_initial import random_backbone, save

SCENES = {"name": "scenes", "count": 6, "scene_size": 32, "split": "train"}


def command(backbone, workdir, *, steps):
    flags = [f"--config.data.{part}.{key}={value}" for part in ("train", "val") for key, value in SCENES.items()]
    return [
        *[sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"],
        *["-m", "tests.transfer.command", "--config=transfer/scenes_boxes", f"--backbone={backbone}", "--num_heads=2"],
        *[f"--workdir={workdir}", f"--config.steps={steps}", "--config.batch_size=2", "--config.log_every=1"],
        *["--config.network.channels=16", "--config.augment.sizes=(32,)", "--config.augment.max_size=32", *flags],
    ]


def run(*arguments, **options):
    finished = subprocess.run(
        command(*arguments, **options), capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert finished.returncode == 0, finished.stderr
    return finished


def parameters(workdir):
    return torch.load(workdir / "checkpoints" / "newest.ckpt", weights_only=True)["model"]


def untimed(metrics):
    return [{name: value for name, value in line.items() if name != "images_per_sec"} for line in read_metrics(metrics)]


def workers_of(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_two_processes_are_one_run_that_a_signal_to_either_stops_and_that_continues_exactly(tmp_path):
    backbone, steps = save(tmp_path / "x.safetensors", *random_backbone()), 30
    whole = run(backbone, tmp_path / "whole", steps=steps)
    assert whole.stdout.count("box AP at IoU 0.75") == 1
    assert whole.stderr.count(f"step {steps}/{steps}") == 1

    metrics = tmp_path / "stopped" / "metrics.jsonl"
    arguments = command(backbone, tmp_path / "stopped", steps=steps)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(workers_of(process)[1], signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "stopped at step" in errors
    assert 3 <= len(read_metrics(metrics)) < steps

    run(backbone, tmp_path / "stopped", steps=steps)
    first, second = parameters(tmp_path / "whole"), parameters(tmp_path / "stopped")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert untimed(metrics) == untimed(tmp_path / "whole" / "metrics.jsonl")
    load_trained(tmp_path / "whole")


def test_a_batch_that_the_processes_cannot_share_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"config\.batch_size = 4 is not divisible by 3 processes"):
        start_fabric(precision="32-true", batch_size=4)


def test_more_processes_than_gpus_are_one_line(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"4 processes on a machine with 2 GPUs; set --nproc_per_node=2"):
        start_fabric(precision="32-true", batch_size=4)
