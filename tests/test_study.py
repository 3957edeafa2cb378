"""`python -m flsl_jax.study` as a person calls it: run, fail, skip, stop, go on, and what is refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flsl_jax.config.files import study_names
from flsl_jax.workdir import read_metrics
from tests.studies.tiny_study import FLAGS

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def command(workdir, *flags):
    study = ["--study=tests/studies/tiny_study.py", f"--workdir={workdir}", *FLAGS]
    return [sys.executable, "-m", "flsl_jax.study", *study, *flags]


def run(workdir, *flags):
    return subprocess.run(
        command(workdir, *flags), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    return workdir, run(workdir)


def test_a_run_that_fails_does_not_lose_the_others_and_is_named(done):
    workdir, finished = done
    assert finished.returncode == 2
    assert re.search(r"\[1/3\] K8-seed0 is done after \d+\.\d minutes: bbox_knn/token 0\.\d{3}\n", finished.stdout)
    assert "[2/3] K24-seed0 starts; its output goes to" in finished.stdout
    assert "[3/3] too-large-seed0 failed: error: config.batch_size=64 is larger than the data set" in finished.stdout
    assert "1 of 3 runs failed: too-large-seed0; log.txt in their folders says why" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert "loss" in (workdir / "K8-seed0" / "log.txt").read_text()


def test_it_leaves_runs_results_a_page_a_picture_and_numbers(done):
    workdir, finished = done
    assert f"\n{workdir}/study.html\n" in finished.stdout
    values = json.loads((workdir / "study.json").read_text())
    for name, row in zip(("K8", "K24"), values["variants"]):
        result = json.loads((workdir / f"{name}-seed0" / "results" / "bbox_knn.json").read_text())
        assert result["model"]["step"] == 2
        assert row["metrics"]["bbox_knn/token"]["mean"] == result["metrics"]["token"]
        assert f"  {name.ljust(9)}  {result['metrics']['token']:.3f}" in finished.stdout
    assert set(values["baselines"]) == {"untrained", "pixels"}
    assert all(metrics["bbox_knn/token"]["n"] == 1 for metrics in values["baselines"].values())
    assert [one["state"] for one in values["runs"]] == ["done", "done", "not started"]
    assert (workdir / "pictures" / "ratio.png").exists()
    assert 'media="(max-width: 42rem)" srcset="data:image/png' in (workdir / "study.html").read_text()
    assert set(json.loads((workdir / "pictures" / "brightness.json").read_text())) == {"K8-seed0", "K24-seed0"}
    assert (workdir / "study.html").read_text().count("data:image/") == 6
    assert "--only" not in values["command"]


def test_what_is_done_is_listed_and_skipped(done):
    workdir, _ = done
    listed = run(workdir, "--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert re.findall(r"\d  (\S+) +(done|begun|not started) ", listed.stdout) == [
        ("K8-seed0", "done"),
        ("K24-seed0", "done"),
        ("too-large-seed0", "not started"),
    ]
    before = {path: path.stat().st_mtime_ns for path in (workdir / "K24-seed0").rglob("*") if path.is_file()}
    again = run(workdir, "--only=1")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_config_in_the_folder_is_refused_before_anything_runs(done):
    workdir, _ = done
    refused = run(workdir, "--config.optimizer.lr=0.25", "--only=1,2")
    assert refused.returncode == 2
    assert "K24-seed0 holds a run with config.optimizer.lr = 0.005, but the study wants 0.25" in refused.stderr
    assert (len(refused.stderr.strip().splitlines()), refused.stdout) == (1, "")


def test_sigterm_stops_the_runs_saved_and_the_same_command_goes_on(tmp_path):
    flags = ("--only=0,1", "--config.stop_at_step=12")
    process = subprocess.Popen(command(tmp_path, *flags), cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "K8-seed0" / "metrics.jsonl"
    while len(read_metrics(metrics)) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "stopped by SIGTERM; continue with the same command" in output
    assert not (tmp_path / "K24-seed0").exists()
    again = run(tmp_path, "--only=0", "--config.stop_at_step=12")
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in read_metrics(metrics)] == list(range(1, 13))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--study=centroid"], 'there is no study "centroid"; did you mean "centroids"?'),
        (["--seeds=0,x"], "--seeds=x: expected whole numbers with commas between them"),
        (["--only=7"], "--only=7: the study has 3 runs, numbered from 0 to 2"),
        (["--config.model.dpth=3"], 'unknown key "dpth"'),
        (["--workdir="], "--workdir is missing"),
        (["--parallel=0"], "--parallel"),
        (["--workdir=README.md/study"], "--workdir=README.md/study cannot be made (Not a directory)"),
        (["--config.evaluation.bbox_knn.val.count=0"], "config.evaluation.bbox_knn.val.count is missing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    finished = run(tmp_path / "study", *flags)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_help_names_every_study_and_the_base_is_that_of_the_papers_ablations(tmp_path):
    helped = subprocess.run(
        [sys.executable, "-m", "flsl_jax.study", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert helped.returncode == 0
    assert all(re.search(rf"^  {name} +\S.* \(the paper", helped.stdout, flags=re.MULTILINE) for name in study_names())
    listed = subprocess.run(
        [sys.executable, "-m", "flsl_jax.study", "--study=centroids", f"--workdir={tmp_path}", "--list"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "K16384-seed0" in listed.stdout
