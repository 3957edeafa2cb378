"""Alarms: silent on the published recipes, raised by collapses that are provoked here, with advice for the run's own config."""

import dataclasses
import importlib
import math
from typing import Any

import jax
import numpy as np
import pytest

from flsl_jax.config import parse_config
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.schedules import Schedule
from flsl_jax.training.setup import build_training
from flsl_jax.training.watching.alarms import Monitor, Thresholds, sharpness_at_start
from tests.tiny import tiny_config

FIRST = Thresholds(readings=1)
LOG_K = math.log(24)
HEALTHY = {
    "mean_entropy": 0.95 * LOG_K,
    "teacher_entropy": 0.5 * LOG_K,
    "used_centroids": 20.0,
    "assignments": 64.0,
    "feature_std": 0.9,
    "effective_rank": 20.0,
    "attention_share": 0.6,
    "mode_similarity": 0.4,
    "normalised_inv_temp": 1.96,
    "position_share": 0.2,
    "agreement": 0.6,
    "intra": 0.1,
}
SOFT = {"attention_share": 0.9986, "normalised_inv_temp": 0.33}


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("one_centroid", {"mean_entropy": 0.1}),
        ("undecided", {"teacher_entropy": 0.999 * LOG_K}),
        ("dead_centroids", {"used_centroids": 1.0}),
        ("constant_features", {"feature_std": 0.01}),
        ("constant_features", {"effective_rank": 1.1}),
        ("soft_attention", SOFT),
        ("hard_attention", {"attention_share": 0.01, "normalised_inv_temp": 256.0, "intra": 0.0002}),
        ("one_mode", {"mode_similarity": 0.99}),
        ("one_mode", {"attention_share": 0.999}),
        ("position_shortcut", {"position_share": 0.8}),
        ("no_agreement", {"agreement": 0.02}),
    ],
)
def test_an_alarm_is_raised_after_some_readings_and_repeats(name, reading):
    monitor = Monitor(tiny_config(), thresholds=Thresholds(readings=3, repeat=5))
    raised = [[alarm.name for alarm in monitor.update(step, HEALTHY | reading)] for step in range(1, 14)]
    assert [step for step, names in enumerate(raised, start=1) if names == [name]] == [3, 8, 13]
    assert all(names in ([], [name]) for names in raised)


def test_healthy_readings_raise_nothing_and_end_a_streak():
    monitor = Monitor(tiny_config())
    bad = HEALTHY | {"agreement": 0.0}
    for step, values in enumerate([bad, bad, HEALTHY, bad, bad]):
        assert monitor.update(step, values) == []


def test_what_a_good_run_may_show_in_its_beginning_is_judged_after_a_tenth_of_the_run():
    early = {"teacher_entropy": LOG_K, "effective_rank": 1.1, "used_centroids": 1.0, "agreement": 0.0}
    collapsed = {"feature_std": 0.01, "mean_entropy": 0.1} | SOFT
    for epoch, others in ((0.29, set()), (0.31, {"undecided", "dead_centroids", "no_agreement"})):
        alarms = Monitor(tiny_config(), thresholds=FIRST).update(1, HEALTHY | early | collapsed | {"epoch": epoch})
        assert {alarm.name for alarm in alarms} == {"constant_features", "one_centroid", "soft_attention"} | others


def test_centroids_are_counted_against_those_that_the_queries_of_a_batch_can_use():
    config = tiny_config(head={"centroids": 4096})
    readings = {"used_centroids": 42.0, "mean_entropy": 8.0}
    few, many = (HEALTHY | readings | {"assignments": rows} for rows in (784.0, 50_176.0))
    assert Monitor(config, thresholds=FIRST).update(1, few) == []
    (alarm,) = Monitor(config, thresholds=FIRST).update(1, many)
    assert alarm.message.startswith("42 of 4096 centroids are used by the 50176 queries of a batch")


def test_a_method_without_modes_is_judged_by_what_it_has():
    alone = {name: HEALTHY[name] for name in ("mean_entropy", "teacher_entropy", "used_centroids", "agreement")}
    assert Monitor(tiny_config(), thresholds=FIRST).update(1, alone) == []
    (alarm,) = Monitor(tiny_config(), thresholds=FIRST).update(1, alone | {"teacher_entropy": LOG_K})
    assert "projected_weight" not in alarm.message


@pytest.mark.parametrize(
    ("reading", "objective", "advice"),
    [
        (SOFT, {}, "self_inv_temp and cross_inv_temp about 6 times, or set them to 1.96 and 3.92"),
        (
            SOFT,
            {"inv_temp_scale": "mean"},
            "Raise config.objective.self_inv_temp and cross_inv_temp to the paper's 1.96",
        ),
        ({"intra": 0.0, "normalised_inv_temp": 256.0}, {}, "self_inv_temp and cross_inv_temp, by up to 131 times"),
        ({"teacher_entropy": LOG_K}, {}, "volume_weight, let config.objective.projected_weight fade from 1 to 0"),
        ({"teacher_entropy": LOG_K}, {"projected_weight": {"start": 1.0, "end": 0.0}}, "volume_weight, raise"),
        ({"teacher_entropy": LOG_K}, {"volume_weight": 0.0}, "teacher_temp, let"),
        ({"used_centroids": 0.0}, {}, "Raise config.objective.volume_weight, or lower config.head.centroids"),
        ({"used_centroids": 0.0}, {"targets": "sinkhorn"}, "Lower config.head.centroids or config.optimizer.lr"),
        ({"mean_entropy": 0.0}, {}, "raise config.objective.volume_weight"),
        ({"mean_entropy": 0.0}, {"targets": "sinkhorn"}, "Raise config.objective.sinkhorn_iterations"),
        ({"mean_entropy": 0.0}, {"targets": "centering"}, "Lower config.objective.center_momentum"),
        ({"feature_std": 0.0}, {}, "Lower config.optimizer.lr or config.objective.intra_weight"),
        ({"feature_std": 0.0}, {"intra_weight": {"start": 0.0, "end": 0.0}}, "Lower config.optimizer.lr, or raise"),
        ({"position_share": 0.9}, {}, "(config.views.student_area), or switch config.views.flip on"),
    ],
)
def test_the_advice_names_keys_that_the_run_can_change(reading, objective, advice):
    (alarm,) = Monitor(tiny_config(objective=objective), thresholds=FIRST).update(1, HEALTHY | reading)
    assert advice in alarm.message


# Measured on photos (COCO; Tiny-ImageNet for `tiny_imagenet`) with the network as it starts, batches of 4 to 64.
_COLUMNS = (
    "assignments", "mean_entropy", "teacher_entropy", "used_centroids", "agreement", "feature_std", "effective_rank",
    "attention_share", "mode_similarity", "normalised_inv_temp", "position_share", "intra",
)  # fmt: skip
AT_START = {
    "vits16": (784, 8.26, 7.15, 43, 0.195, 0.896, 4.10, 0.974, 0.620, 1.96, 0.084, 0.330),
    "released_vits16": (272, 8.19, 7.12, 12, 0.313, 0.778, 5.18, 0.808, 0.739, 1.96, 0.276, 0.364),
    "vits8": (1568, 8.24, 7.12, 29, 0.152, 0.833, 4.93, 0.979, 0.595, 1.96, 0.151, 0.252),
    "vitb16": (392, 8.23, 7.10, 24, 0.207, 0.813, 5.80, 0.940, 0.571, 3.92, 0.150, 0.229),
    "tiny_imagenet": (2048, 6.90, 5.77, 191, 0.240, 0.915, 3.94, 0.501, 0.385, 19.2, 0.021, 0.027),
}


@pytest.mark.parametrize("name", AT_START)
def test_a_published_recipe_run_as_published_raises_nothing_at_its_start(name):
    monitor = Monitor(parse_config(importlib.import_module(f"configs.{name}").get_config().to_dict()))
    reading = {key: float(value) for key, value in zip(_COLUMNS, AT_START[name])}
    for step in range(10):
        assert monitor.update(step, reading | {"epoch": 0.01 * step}) == []


# Epoch, then as above: `quickstart` with the paper's temperatures on the scale of its width.
SOFT_RUN = (
    (0.025, 1024, 4.763, 2.149, 77, 0.031, 0.907, 1.90, 0.975, 0.447, 1.96, 0.017, 0.240),
    (0.15, 1024, 4.842, 3.218, 71, 0.123, 0.907, 2.05, 0.963, 0.531, 1.96, 0.021, 0.228),
    (0.3, 1024, 4.846, 3.904, 56, 0.230, 0.905, 2.28, 0.965, 0.394, 1.96, 0.021, 0.218),
    (0.75, 1024, 4.841, 3.984, 44, 0.376, 0.921, 3.37, 0.946, 0.596, 1.96, 0.028, 0.221),
    (1.5, 1024, 4.841, 3.341, 37, 0.497, 0.910, 2.73, 0.904, 0.391, 1.96, 0.035, 0.148),
    (3.0, 1024, 4.834, 3.104, 42, 0.517, 0.914, 3.40, 0.902, 0.398, 1.96, 0.038, 0.139),
)


def test_a_soft_run_whose_modes_are_objects_raises_nothing_from_its_start_to_its_end():
    monitor = Monitor(tiny_config(head={"centroids": 128}, batch_size=32), thresholds=FIRST)
    for step, readings in enumerate(SOFT_RUN):
        assert monitor.update(step, {key: float(value) for key, value in zip(("epoch", *_COLUMNS), readings)}) == []


STEPS, BATCH = 60, 16
GOOD = {
    "lr": 0.01 * BATCH / 256,
    "weight_decay": 0.05,
    "self_inv_temp": 1.96 / 32,
    "cross_inv_temp": 3.92 / 32,
    "teacher_temp": 0.04,
    "intra_weight": 0.03,
    "volume_weight": 5.0,
}


class _Scaled(Schedule):
    """A schedule times a number that may be traced, so that runs which differ in it share one compiled step."""

    factor: Any
    shape: Schedule

    def __init__(self, factor, shape):
        self.__dict__.update(factor=factor, shape=shape)

    def __call__(self, step):
        return self.factor * self.shape(step)


@pytest.fixture(scope="module")
def training_alarms():
    """Trains a small network on scenes and returns the alarms; all runs share one compiled step."""
    config = tiny_config(
        batch_size=BATCH,
        epochs=1,
        model={"patch_size": 4, "depth": 1, "drop_path": 0.0},
        head={"centroids": 32},
        views={"grayscale_probability": 0.0, "saturation": 0.1, "hue": 0.02, "solarise_probability": 0.0},
        objective={"projected_weight": {"start": 1.0, "end": 0.0}},
        optimizer={"freeze_last_layer_epochs": 0.0},
        teacher={"momentum": {"start": 0.95, "end": 1.0}},
    )
    mesh = jax.make_mesh(
        (1, 1), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1]
    )
    training = build_training(config, mesh=mesh, steps_per_epoch=STEPS, guide=None)
    scenes = Scenes(count=BATCH * STEPS, size=32)
    images = np.stack([scenes[index].image for index in range(BATCH * STEPS)]).reshape(STEPS, BATCH, 32, 32, 3)
    samples = np.arange(BATCH * STEPS, dtype=np.uint32).reshape(STEPS, BATCH)

    @jax.jit
    def step(state, images, sample, settings):
        level = Schedule(start=1.0, end=1.0, steps=STEPS)
        shapes = {"lr": Schedule(start=1.0, end=0.0, steps=STEPS, warmup_steps=STEPS // 10)}
        fixed = {key: _Scaled(value, shapes.get(key, level)) for key, value in settings.items()}
        weights = {key: fixed.pop(key) for key in ("intra_weight", "volume_weight")}
        whole = training.pure_step
        schedules = dataclasses.replace(
            whole.schedules, **fixed, term_weights={**whole.schedules.term_weights, **weights}
        )
        method = dataclasses.replace(whole.method, schedules=schedules)
        return dataclasses.replace(whole, schedules=schedules, method=method)(state, images, sample)

    def run(**changes):
        state, monitor, alarms = training.init(), Monitor(config), []
        for number in range(STEPS):
            state, metrics = step(state, images[number], samples[number], GOOD | changes)
            values = {name: float(value) for name, value in metrics.items()} | {"epoch": (number + 1) / STEPS}
            alarms += [alarm.name for alarm in monitor.update(number + 1, values)]
        return set(alarms)

    return run


def test_a_training_without_a_collapse_raises_nothing(training_alarms):
    assert training_alarms() == set()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"volume_weight": 0.0}, "one_centroid"),
        ({"lr": 0.1 * BATCH / 256}, "dead_centroids"),
        ({"lr": 3.0 * BATCH / 256}, "constant_features"),
        ({"intra_weight": 1.0, "volume_weight": 1.0, "lr": 0.03 * BATCH / 256}, "constant_features"),
        ({"weight_decay": 300.0, "lr": 0.03 * BATCH / 256}, "one_mode"),
        ({"teacher_temp": 2.0}, "undecided"),
        ({"volume_weight": 1000.0, "lr": 0.03 * BATCH / 256}, "no_agreement"),
        ({"self_inv_temp": 0.1 / 384**0.5, "cross_inv_temp": 0.2 / 384**0.5}, "soft_attention"),
        ({"self_inv_temp": 0.0, "cross_inv_temp": 0.0}, "soft_attention"),
        ({"self_inv_temp": 16.0, "cross_inv_temp": 16.0}, "hard_attention"),
    ],
    ids=str,
)
def test_a_training_that_collapses_raises_the_alarm(training_alarms, changes, expected):
    assert expected in training_alarms(**changes)


def test_silence_says_which_alarms_were_possible():
    monitor = Monitor(tiny_config(epochs=30))
    assert "written lines in a row, and the run has 0. A line is written every 1 steps" in monitor.silence()
    early = HEALTHY | {"epoch": 1.0}
    monitor.update(1, early)
    assert not monitor.possible
    assert monitor.silence().startswith(
        "No alarm was possible yet: each needs 3 written lines in a row, and the run has 1."
    )
    for step in (2, 3, 4):
        monitor.update(step, early)
    assert "raised no alarm. Not possible yet were undecided, dead_centroids, one_mode" in monitor.silence()
    for step in (5, 6, 7):
        monitor.update(step, HEALTHY | {"epoch": 3.0})
    assert monitor.silence() == "The monitor raised no alarm."


def test_alarms_whose_values_an_objective_lacks_are_not_waited_for():
    monitor, lacking = Monitor(tiny_config()), {"intra", "attention_share", "mode_similarity", "normalised_inv_temp"}
    for step in (1, 2, 3):
        monitor.update(step, {name: value for name, value in HEALTHY.items() if name not in lacking})
    assert monitor.silence() == "The monitor raised no alarm."


@pytest.mark.parametrize(
    ("inv_temp", "scale", "value", "kind"),
    [(1.96, "mean", 1.96, ""), (0.1 / 384**0.5, "sum", 0.1633, "soft"), (16.0, "mean", 16.0, "hard")],
)
def test_before_the_first_step_the_sharpness_is_that_of_the_width(inv_temp, scale, value, kind):
    schedule = {"start": inv_temp, "end": inv_temp}
    config = tiny_config(objective={"self_inv_temp": schedule, "inv_temp_scale": scale})
    sharpness = sharpness_at_start(config)
    assert (sharpness.value, sharpness.kind) == (pytest.approx(value, rel=1e-3), kind)
    if kind:  # what the monitor would say of a run that is so
        reading = {"attention_share": 1.0 if kind == "soft" else 0.0, "normalised_inv_temp": value, "intra": 0.0}
        monitor = Monitor(config, thresholds=FIRST)
        assert any(sharpness.advice in alarm.message for alarm in monitor.update(9, HEALTHY | reading))
    else:
        assert sharpness.advice == ""
