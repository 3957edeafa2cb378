"""`--config.key=value` of tuples and schedules, as a shell hands it over."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs import vits16
from flsl_jax.config import ScheduleConfig, parse_config

ROOT = Path(__file__).parents[2]
# What a command sees of its config flag, in JSON.
_SHOW = """
import json, sys
from absl import flags
from flsl_jax.command_line import run_main
from flsl_jax.config.files import define_config_flag, given_keys
config = define_config_flag("config", help_string="")

def main():
    print(json.dumps({"values": config.value.to_dict(), "given": sorted(given_keys("config"))}))
    return 0

run_main(main)
"""


def command(*arguments, code=("-c", _SHOW)):
    return subprocess.run(
        [sys.executable, *code, "--config=vits16", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def overridden(*arguments):
    done = command(*(f"--config.{argument}" for argument in arguments))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "written",
    ["video,bbox_knn", "('video','bbox_knn')", "(video, bbox_knn)", "[video,bbox_knn]", '["video", "bbox_knn"]'],
)
def test_names_with_commas_are_a_tuple_with_and_without_quotes(written):
    assert overridden(f"evaluation.tasks={written}")["values"]["evaluation"]["tasks"] == ["video", "bbox_knn"]


def test_every_tuple_is_read_and_one_value_needs_no_comma():
    shown = overridden(
        "evaluation.tasks=video", "views.student_area=0.4,1.0", "views.aspect=(1,2)", "evaluation.clustering.clusters=0,54",
        "evaluation.retrieval.val.ignore=0", "evaluation.recorded=twin,bbox_knn/token=0.5",
        "evaluation.clustering.data.ignore=", "views.blur_sigma=0.2", "views.blur_sigma=1.5",
    )  # fmt: skip
    values = shown["values"]
    assert (values["evaluation"]["tasks"], values["evaluation"]["clustering"]["clusters"]) == (["video"], [0, 54])
    assert (values["views"]["student_area"], values["views"]["aspect"]) == ([0.4, 1.0], [1, 2])
    assert values["views"]["blur_sigma"] == [0.2, 1.5]  # a flag that is repeated
    assert values["evaluation"]["retrieval"]["val"]["ignore"] == [0]
    assert (values["evaluation"]["recorded"], values["evaluation"]["clustering"]["data"]["ignore"]) == (
        ["twin", "bbox_knn/token=0.5"], [],
    )  # fmt: skip
    assert {"evaluation.tasks", "views.aspect"} <= set(shown["given"])
    assert parse_config(values).evaluation.clustering.clusters == (0, 54)


def test_a_number_stands_for_a_schedule_that_does_not_move():
    values = overridden("objective.teacher_temp=0.05", "optimizer.weight_decay=1", "teacher.momentum.end=0.999")[
        "values"
    ]
    config = parse_config(values)
    assert config.objective.teacher_temp == ScheduleConfig(start=0.05, end=0.05)
    assert config.optimizer.weight_decay == ScheduleConfig(start=1.0, end=1.0)
    assert (config.teacher.momentum.start, config.teacher.momentum.end) == (0.996, 0.999)
    again = overridden("objective.teacher_temp=0.05", "objective.teacher_temp.end=0.07")["values"]
    assert parse_config(again).objective.teacher_temp == ScheduleConfig(start=0.05, end=0.07)


def test_a_number_stands_for_every_schedule_in_python_too():
    values = vits16.get_config().to_dict()
    schedules = [(group, key) for group in values for key, value in _items(values[group]) if _is_schedule(value)]
    assert {"teacher_temp", "momentum", "weight_decay", "intra_weight"} <= {key for _, key in schedules}
    for group, key in schedules:
        values[group][key] = 1
    config = parse_config(values)
    for group, key in schedules:
        assert getattr(getattr(config, group), key) == ScheduleConfig(start=1.0, end=1.0)


def _items(group):
    return group.items() if isinstance(group, dict) else ()


def _is_schedule(value):
    return isinstance(value, dict) and "start" in value


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("objective.teacher_temp=warm", "expected a number that stays the same, or set the schedule's .start and .end"),
        ("objective=0.05", "--config.objective=0.05: it is a group of keys; set one of them by its name after a dot"),
    ],
)
def test_what_is_neither_is_one_line(argument, message):
    done = command(f"--config.{argument}")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation.tasks=video,bbox_knn"], "evaluation.every_epochs is 0; add --config.evaluation.every_epochs=1.0"),
        (
            ["evaluation.tasks=video,bbox_knn", "evaluation.every_epochs=1"],
            "config.evaluation.video.root is missing; config.evaluation.video.name=davis needs it",
        ),
        (
            ["evaluation.tasks=video", "evaluation.every_epochs=1", "evaluation.video.root=/x"],
            "set it too, such as --config.evaluation.best_metric=video/jf_mean",
        ),
        (["views.student_area=0.4"], "config.views.student_area is (0.4,); expected 2 numbers"),
        (
            ["objective.teacher_temp=0"],
            "config.objective.teacher_temp.start is 0.0; expected more than 0 (temperature)",
        ),
    ],
)
def test_training_refuses_what_it_could_not_do_and_says_what_is_missing(arguments, message, tmp_path):
    flags = [f"--config.{argument}" for argument in arguments]
    done = command(f"--workdir={tmp_path / 'run'}", *flags, code=("-m", "flsl_jax.main"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
