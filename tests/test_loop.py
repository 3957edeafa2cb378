"""Whole runs: resume, kill, signals, several processes, bad input; through `train` and through the command line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flsl_jax
from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.errors import UserError
from flsl_jax.loop import Outcome, summary, train
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config
from tests.weights.test_initial import random_backbone, save

ROOT = Path(__file__).parents[1]
TIMING = ("images_per_sec", "data_wait_share", "mfu")
TOTAL_STEPS = 12


def command(workdir, *flags):
    return [sys.executable, "-m", "flsl_jax.main", "--config=tests/tiny.py", f"--workdir={workdir}", *flags]


def environment(devices=1):
    return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def run(workdir, *flags, devices=1):
    return subprocess.run(
        command(workdir, *flags), cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300
    )


def start(workdir, *flags, devices=1):
    return subprocess.Popen(
        command(workdir, *flags),
        cwd=ROOT,
        env=environment(devices),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def metrics(workdir):
    """Lines of the run without what a clock decides."""
    lines = read_metrics(Path(workdir) / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def state(workdir):
    step, values, _ = read_checkpoint(Path(workdir) / "checkpoints")
    assert step == TOTAL_STEPS
    return values


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finished = run(workdir)
    assert finished.returncode == 0, finished.stderr
    return workdir


def assert_same_run(workdir, reference):
    chex.assert_trees_all_equal(state(workdir), state(reference))
    assert metrics(workdir) == metrics(reference)


def test_a_run_leaves_what_the_readme_promises(uninterrupted):
    assert {"config.json", "metrics.jsonl", "checkpoints", "curves.png"} <= {
        path.name for path in uninterrupted.iterdir()
    }
    lines = metrics(uninterrupted)
    assert [line["step"] for line in lines] == list(range(1, TOTAL_STEPS + 1))
    assert {"loss", "intra", "inter", "volume", "mean_entropy", "effective_rank", "lr"} <= lines[0].keys()
    assert json.loads((uninterrupted / "config.json").read_text())["batch_size"] == 8
    with Image.open(uninterrupted / "curves.png") as curves:
        assert curves.size[0] > 500


def test_the_trained_backbone_loads_and_takes_any_size(uninterrupted):
    model = flsl_jax.load(uninterrupted)
    assert model(jnp.zeros((2, 48, 72, 3))).shape == (2, 6, 9, 32)
    student = flsl_jax.load(uninterrupted / "checkpoints" / str(TOTAL_STEPS), network="student")
    images = jax.random.normal(jax.random.key(0), (1, 32, 32, 3))
    assert not np.allclose(model(images), student(images))


def test_stopped_and_continued_is_never_stopped(tmp_path, uninterrupted):
    assert run(tmp_path, "--config.stop_at_step=5").returncode == 0
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, uninterrupted)


def test_killed_twice_and_continued_is_never_killed(tmp_path, uninterrupted):
    for lines_before_kill in (3, 8):
        process = start(tmp_path)
        deadline = time.monotonic() + 120
        while len(metrics(tmp_path)) < lines_before_kill and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, uninterrupted)


def test_a_signal_saves_and_says_how_to_continue_and_more_of_them_change_nothing(tmp_path, uninterrupted):
    process = start(tmp_path)
    while len(metrics(tmp_path)) < 2 and process.poll() is None:
        time.sleep(0.02)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.05)
    output, _ = process.communicate(timeout=60)
    if process.returncode != 0:  # 0: it had finished before the signal came
        assert process.returncode == 75
        assert "by SIGUSR1; saved" in output
        assert "continue with the same command" in output
    assert run(tmp_path).returncode == 0
    assert_same_run(tmp_path, uninterrupted)


def test_a_run_stopped_before_its_first_line_saves_and_continues(tmp_path):
    outcome = train(tiny_config(stop_at_step=1, logging={"every_steps": 5}), workdir=tmp_path)
    assert outcome.step == 1
    assert metrics(tmp_path) == []
    assert train(tiny_config(logging={"every_steps": 5}), workdir=tmp_path).step == TOTAL_STEPS
    assert (tmp_path / "curves.png").exists()


def test_a_config_that_does_not_fit_the_checkpoint_leaves_the_one_that_does(tmp_path):
    train(tiny_config(stop_at_step=1), workdir=tmp_path)
    written = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="does not fit this config"):
        train(tiny_config(head={"centroids": 12}), workdir=tmp_path, allow_changes=["head"])
    assert (tmp_path / "config.json").read_text() == written


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_on_two_processes(workdir, *flags):
    port = free_port()
    shared = [
        "--config.parallel.distributed=True",
        f"--config.parallel.coordinator=127.0.0.1:{port}",
        "--config.parallel.num_processes=2",
        "--config.parallel.timeout_seconds=60",
    ]
    processes = [start(workdir, *shared, f"--config.parallel.process_id={number}", *flags) for number in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def assert_close_runs(ours, reference):
    for line, expected in zip(metrics(ours), metrics(reference), strict=True):
        assert line["step"] == expected["step"]
        for name in ("loss", "intra", "inter", "volume"):
            np.testing.assert_allclose(line[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_two_processes_are_guided_as_one_is(tmp_path):
    path = save(tmp_path / "x.safetensors", *random_backbone())
    flags = (f"--config.guide.model={path}", "--config.guide.num_heads=2", "--config.stop_at_step=2")
    assert run(tmp_path / "one", *flags).returncode == 0
    run_on_two_processes(tmp_path / "two", *flags)
    assert_close_runs(tmp_path / "two", tmp_path / "one")


def test_a_non_finite_value_stops_the_run_and_leaves_the_last_checkpoint(tmp_path):
    config = tiny_config(optimizer={"lr": 1e30, "warmup_epochs": 0.0, "clip": "none"}, epochs=2)
    with pytest.raises(UserError, match=r"step \d+: \w+ is (nan|inf), from samples \d+"):
        train(config, workdir=tmp_path)
    report = json.loads(next(tmp_path.glob("nonfinite_*.json")).read_text())
    assert len(report["sample"]) == 8
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert all(step < report["step"] for step in steps)


def test_the_dense_knn_is_measured_and_the_best_checkpoint_kept(tmp_path):
    source = {"name": "scenes", "count": 24, "scene_size": 32}
    config = tiny_config(
        epochs=2,
        evaluation={
            "every_epochs": 0.5,
            "batch_size": 8,
            "bbox_knn": {"train": source, "val": source | {"split": "val"}},
        },
        checkpoint={"every_epochs": 0.5, "keep": 1},
    )
    train(config, workdir=tmp_path)
    measured = {line["step"]: line["knn_any"] for line in metrics(tmp_path) if "knn_any" in line}
    assert list(measured) == [0, 2, 4, 6, 8]
    assert "knn_pixels_any" in metrics(tmp_path)[0]
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert 8 in kept
    assert max(measured[step] for step in kept) == max(measured[step] for step in measured if step > 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.data.name=folder", "--config.data.root={tmp}/nowhere"], "nowhere"),
        (["--config.data.name=folder", "--config.data.root={tmp}"], "no image"),
        (["--config.batch_size=64"], "config.batch_size=64 is larger than the data set"),
        (["--config=nope.py"], "nope.py"),
        (["--config.modle.width=3"], 'unknown key "modle"; did you mean "model"?'),
        (
            ["--config.data.zzz=3"],
            'unknown key "zzz"; `flsl train --help` and docs/config.md list those that there are',
        ),
        (["--config.model.width=wide"], "--config.model.width=wide: expected a whole number"),
        (["--config.views.recipe=papr"], 'did you mean "paper"'),
        (["--config.objective.prior={tmp}/none.npy"], "config.objective.prior"),
        (["--config.parallel.fsdp=3"], "does not use the 1 devices"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    finished = run(tmp_path / "run", *(flag.format(tmp=tmp_path / "empty") for flag in flags))
    assert finished.returncode == 2
    assert message in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (
            {"knn_any": 0.5, "knn_token": 0.2, "knn_pixels_any": 0.4, "knn_pixels_token": 0.1},
            {"knn_any": 0.75, "knn_token": 0.3},
            "untrained → trained (raw pixels): k-NN of single tokens 20.0% → 30.0% (10.0%), "
            "of any of 9 tokens 50.0% → 75.0% (40.0%); step 12",
        ),
        ({"knn_any": 0.5, "knn_token": 0.2}, {"knn_any": 0.75}, "bbox_knn/any: untrained 0.5 → trained 0.75; step 12"),
    ],
    ids=["with the baseline", "whose first lines are lost"],
)
def test_the_last_line_says_what_training_has_brought(tmp_path, first, last, expected):
    lines = [{"step": 0} | first, {"step": 6, "loss": 3.0}, {"step": 12} | last]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert expected in summary(tiny_config(), workdir=tmp_path, outcome=Outcome(step=12, finished=True))


def test_the_last_line_shows_what_is_on_record_beside_raw_pixels(tmp_path):
    config = tiny_config(evaluation={"recorded": ("DINO twin", "discovery/modes_corloc=0.0875")})
    first = {"knn_any": 0.5, "discovery/modes_corloc": 0.1, "discovery/pixels_modes_corloc": 0.05}
    lines = [{"step": 0} | first, {"step": 12, "knn_any": 0.75, "discovery/modes_corloc": 0.6}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = summary(config, workdir=tmp_path, outcome=Outcome(step=12, finished=True))
    assert "trained (raw pixels, DINO twin): objects found by modes 10.0% → 60.0% (5.0%, 8.8%); step 12" in said


@pytest.mark.parametrize("entry", ["knn_any=0.5", "bbox_knn/any", "bbox_knn/any=high"])
def test_a_record_of_another_form_is_refused(entry):
    with pytest.raises(UserError, match=f"config.evaluation.recorded has '{entry}'; expected a name"):
        tiny_config(evaluation={"recorded": ("DINO twin", entry)})


def test_the_last_line_names_the_metric_that_chooses_the_best_checkpoint(tmp_path):
    config = tiny_config(evaluation={"best_metric": "video/jf"})
    lines = [{"step": 0, "video/jf": 0.25}, {"step": 12, "video/jf": 0.375}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = summary(config, workdir=tmp_path, outcome=Outcome(step=12, finished=True))
    assert said.startswith("video/jf: untrained 0.25 → trained 0.375; step 12")
    lines[0] |= {"knn_any": 0.5, "knn_pixels_any": 0.25}
    lines[1] |= {"knn_any": 0.75}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = summary(config, workdir=tmp_path, outcome=Outcome(step=12, finished=True))
    assert "of any of 9 tokens 50.0% → 75.0% (25.0%), video/jf 0.25 → 0.375; step 12" in said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"step": 10, "loss": 3.0}], "at step 10, written last: loss 3 (ln K is 3.18); step 12 (not the last), "),
        ([{"step": 0, "video/jf": 0.25}], "no line of metrics yet (config.logging.every_steps is 5); step 12 (not"),
        ([], "no line of metrics yet (config.logging.every_steps is 5); step 12 (not the last), "),
        (
            [{"step": 0, "video/jf": 0.25}, {"step": 10, "video/jf": 0.5}],
            "video/jf: untrained 0.25 → step 10, measured last 0.5; step 12 (not the last), ",
        ),
    ],
)
def test_the_last_line_says_of_which_step_its_values_are(tmp_path, lines, expected):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_config(evaluation={"best_metric": "video/jf"}, logging={"every_steps": 5})
    assert summary(config, workdir=tmp_path, outcome=Outcome(step=12, finished=False)).startswith(expected)


def test_the_last_line_of_a_run_that_was_measured_once_has_the_values_of_its_last_step(tmp_path):
    lines = [{"step": 12, "loss": 3.0}, {"step": 12, "video/jf": 0.375}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = summary(tiny_config(), workdir=tmp_path, outcome=Outcome(step=12, finished=True))
    assert said.startswith("loss 3 (ln K is 3.18); step 12")
