"""Flags from dataclasses: every key, its type and its default."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from flsl_jax.config import (
    BboxKnnConfig,
    ClusteringConfig,
    EvaluationConfig,
    SourceConfig,
    check_sources,
    check_task,
)
from flsl_jax.config.flags import define_group, describe_group, describe_kind
from flsl_jax.errors import UserError

ROOT = Path(__file__).parents[1]
TASKS = {
    field.name: field.default
    for field in dataclasses.fields(EvaluationConfig)
    if dataclasses.is_dataclass(field.default)
}


@pytest.mark.parametrize("name", TASKS)
def test_flags_left_alone_give_the_defaults(name):
    read = define_group(f"untouched_{name}", type(TASKS[name]))
    flags.FLAGS(["command"])
    assert read() == TASKS[name]
    check_task(read(), path=f"--{name}")


def test_flags_give_their_keys_values():
    read = define_group("given", BboxKnnConfig)
    flags.FLAGS(["command", "--given.train.root=/x", "--given.k=3", "--given.temp=1", "--given.val.name=scenes"])
    expected = BboxKnnConfig()
    expected = dataclasses.replace(expected, train=dataclasses.replace(expected.train, root="/x"), k=3, temp=1.0)
    assert read() == dataclasses.replace(expected, val=dataclasses.replace(expected.val, name="scenes"))
    clusters = define_group("several", ClusteringConfig)
    flags.FLAGS(["command", "--several.clusters=0,54", "--several.data.ignore=0"])
    assert (clusters().clusters, clusters().data.ignore) == ((0, 54), (0,))


def test_the_description_names_every_flag_once_with_its_range_and_the_keys_that_groups_share():
    described = describe_group("bbox_knn", BboxKnnConfig)
    words = [word for word in described.split() if word.startswith("--")]
    keys = {word.split("=")[0].removeprefix("--bbox_knn.") for word in words}
    fields = {field.name for field in dataclasses.fields(BboxKnnConfig)}
    assert keys == fields - {"train", "val"} | {"train.KEY", "val.KEY"}
    assert len(words) == len(fields)
    assert [line.split(maxsplit=1)[1:] for line in described.splitlines() if line.startswith("--bbox_knn.temp=")] == [
        ["more than 0 (temperature of cosines)"]
    ]
    assert {"root=", "name=folder", "split=train"} <= set(describe_kind(SourceConfig).split())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BboxKnnConfig(k=0), "--t.k is 0; expected 1 or more"),
        (BboxKnnConfig(temp=0.0), "--t.temp is 0.0; expected more than 0"),
        (BboxKnnConfig(temp=float("nan")), "--t.temp is nan; expected more than 0"),
        (ClusteringConfig(clusters=()), "--t.clusters is empty"),
        (BboxKnnConfig(size=-1), "--t.size is -1; expected 0 or more"),
        (BboxKnnConfig(train=dataclasses.replace(BboxKnnConfig().train, limit=-1)), "--t.train.limit is -1"),
        (EvaluationConfig().discovery.__class__(iou=2.0), "--t.iou is 2.0; expected more than 0 and at most 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        check_task(settings, path="--t")


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ("bbox_knn", {}, "--t.train.root is missing; --t.train.name=folder needs it"),
        ("bbox_knn", {"name": "scenes", "count": 3}, "--t.train.scene_size is missing"),
        ("bbox_knn", {"name": "tfds", "root": "/x"}, "--t.train.dataset is missing"),
        ("retrieval", {"images": "/x"}, "--t.train.masks is missing"),
        ("retrieval", {"name": "panoptic", "images": "/x", "masks": "/y"}, "--t.train.annotations is missing"),
    ],
)
def test_a_source_that_is_nowhere_is_refused_by_name(task, keys, message):
    settings = TASKS[task]
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, **keys))
    with pytest.raises(UserError, match=message):
        check_sources(settings, path="--t")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--bbox_knn.trian.root=/x", "unknown flag --bbox_knn.trian.root; did you mean --bbox_knn.train.root?"),
        ("--bbox_kn.k=3", "unknown flag --bbox_kn.k; did you mean --bbox_knn.k?"),
        ("--bbox_knn.k=many", "bbox_knn.k=many"),
        ("--bbox_knn.train.name=scene", "tfds|shards|scenes"),
        ("--clustering.clusters=a,b", "clustering.clusters=a,b"),
    ],
)
def test_wrong_flags_are_one_line(flag, message):
    code = (
        "from flsl_jax.config import BboxKnnConfig, ClusteringConfig; from flsl_jax.config.flags import define_group; "
        "from flsl_jax.command_line import run_main; define_group('bbox_knn', BboxKnnConfig); "
        "define_group('clustering', ClusteringConfig); run_main(lambda: 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        ("evaluate", ("--task=bbox_knn", "--bbox_knn.temp=nan"), "--bbox_knn.temp is nan; expected more than 0 (temp"),
        ("evaluate", ("--task=video", "--video.limit=-1"), "--video.limit is -1; expected 0 or more (videos; 0: all)"),
        ("visualize", ("--inv_temp=inf",), "flag --inv_temp=inf: expected 0 or more, finite (times √D)"),
        ("visualize", ("--mode_similarity=nan",), "--mode_similarity=nan: expected a number from -1 to 1 (cosine)"),
    ],
)
def test_numbers_out_of_range_are_one_line_at_every_command(command, given, message):
    done = subprocess.run(
        [sys.executable, "-m", f"flsl_jax.{command}", *given], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


HELP = (sys.executable, "-m", "flsl_jax.convert", "--help")


def test_help_names_the_flags_and_is_no_failure():
    done = subprocess.run(HELP, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--output" in done.stdout


def test_help_into_a_pipe_that_is_closed_ends_quietly():
    with subprocess.Popen(HELP, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)
