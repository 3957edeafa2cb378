"""Evaluations during training: their names, the data opened once, and a stop while they run."""

import os
import signal

import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.config import ImageKnnConfig
from flsl_jax.errors import UserError
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.tasks import TASKS
from flsl_jax.loop import train
from flsl_jax.training.setup import build_training
from flsl_jax.training.validation import StoppedEvaluating, Validation
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config

SOURCE = {"name": "scenes", "count": 24, "scene_size": 32}
SOURCES = {"train": SOURCE, "val": SOURCE | {"split": "val", "count": 10}}


def config(*tasks, **groups):
    best = "bbox_knn/any" if "bbox_knn" in tasks else "image_knn/top1"
    evaluation = {"every_epochs": 0.5, "tasks": tasks, "best_metric": best, "batch_size": 8}
    evaluation |= dict.fromkeys(tasks, SOURCES)
    return tiny_config(evaluation=evaluation, **groups)


def test_every_named_task_is_measured_and_can_be_stopped():
    settings = config("bbox_knn", "image_knn")
    validation = Validation.open(settings)
    training = build_training(settings, mesh=parallel.make_mesh(settings.parallel), steps_per_epoch=4)
    params = training.init().teacher
    values = validation.measure(training, params, baseline=True)
    assert {
        "knn_any",
        "knn_majority",
        "knn_token",
        "knn_modes_token",
        "knn_pixels_any",
        "image_knn/top1",
        "image_knn/pixels_top1",
    } <= values.keys()
    assert "knn_pixels_modes_any" not in values
    assert validation.measure(training, params) == {
        name: value for name, value in values.items() if "pixels" not in name
    }
    assert validation.is_measured(values)
    assert not validation.is_measured({"knn_any": 0.5, "loss": 1.0})
    assert validation.images(4).shape == (4, 32, 32, 3)
    asked = []
    with pytest.raises(StoppedEvaluating):
        validation.measure(training, params, stop=lambda batch: asked.append(batch) or batch == 2)
    assert asked == [0, 1, 2]


def test_a_best_metric_that_the_task_does_not_measure_is_refused_with_those_that_it_does():
    settings = tiny_config(
        evaluation={"every_epochs": 1.0, "tasks": ("image_knn",), "best_metric": "image_knn/top2", "image_knn": SOURCES}
    )
    validation = Validation.open(settings)
    training = build_training(settings, mesh=parallel.make_mesh(settings.parallel), steps_per_epoch=4)
    with pytest.raises(
        UserError, match=r"best_metric is 'image_knn/top2', but image_knn measures top1, .*image_knn/top1"
    ):
        validation.measure(training, training.init().teacher)


def test_bad_input_is_refused_before_training():
    with pytest.raises(UserError, match=r"config\.evaluation\.image_knn\.train\.root is missing"):
        tiny_config(evaluation={"every_epochs": 1.0, "tasks": ("image_knn",)})
    nothing = SOURCE | {"name": "folder", "root": "/nowhere/at/all"}
    chosen = {"every_epochs": 1.0, "tasks": ("image_knn",), "best_metric": "image_knn/top1"}
    settings = tiny_config(evaluation=chosen | {"image_knn": {"train": nothing, "val": nothing}})
    with pytest.raises(UserError, match="/nowhere/at/all cannot be read"):
        Validation.open(settings)


@pytest.mark.parametrize(("stopped_call", "step"), [(3, 2), (5, 6)])
def test_sigterm_while_measuring_saves_and_the_measurement_is_made_up_for(tmp_path, monkeypatch, stopped_call, step):
    """The first two calls are of the untrained network and of raw pixels."""
    calls = []

    def nothing(settings, *, patch_size, image_size, decoding):
        return None

    def evaluate(encoder, settings, *, batch_size, data):
        calls.append(1)
        if len(calls) == stopped_call:
            os.kill(os.getpid(), signal.SIGTERM)
        encoder.tokens(np.zeros((8, 32, 32, 3), np.uint8))
        return Scores(metrics={"top1": float(len(calls))}, images=8)

    task = Task(name="image_knn", settings=ImageKnnConfig, open=nothing, evaluate=evaluate, judges="", needs="")
    monkeypatch.setitem(TASKS, "image_knn", task)
    settings = config("image_knn", epochs=2, stop_at_step=6)
    outcome = train(settings, workdir=tmp_path)
    assert (outcome.step, outcome.finished, len(calls)) == (step, False, stopped_call)
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    assert train(settings, workdir=tmp_path).finished
    measured = {
        line["step"]: line["image_knn/top1"]
        for line in read_metrics(tmp_path / "metrics.jsonl")
        if "image_knn/top1" in line
    }
    expected = [call for call in (1, 3, 4, 5, 6) if call != stopped_call]
    assert measured == dict(zip((0, 2, 4, 6), expected, strict=True))
    assert train(settings, workdir=tmp_path).finished
    assert len(calls) == 6


def test_a_warning_of_a_task_is_logged_once(tmp_path, monkeypatch, caplog):
    def evaluate(encoder, settings, *, batch_size, data):
        return Scores(metrics={"top1": 0.5}, images=8, warnings=["the bank is small"])

    task = Task(
        name="image_knn",
        settings=ImageKnnConfig,
        open=lambda settings, *, patch_size, image_size, decoding: None,
        evaluate=evaluate,
        judges="",
        needs="",
    )
    monkeypatch.setitem(TASKS, "image_knn", task)
    assert train(config("image_knn", epochs=2, stop_at_step=4), workdir=tmp_path).finished
    assert caplog.messages.count("WARNING: image_knn: the bank is small") == 1
