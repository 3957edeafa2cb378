"""A task that asks about the images that it has learned from is told of."""

import pytest

from flsl_jax.config import (
    BboxKnnConfig,
    DiscoveryConfig,
    ImageKnnConfig,
    MaskedSourceConfig,
    RetrievalConfig,
    SourceConfig,
    advice,
    task_advice,
)
from tests.tiny import tiny_config

SAME = [
    ImageKnnConfig(train=SourceConfig(root="a/b", limit=5), val=SourceConfig(root="a/./b")),
    BboxKnnConfig(train=SourceConfig(root="a", boxes="b.json"), val=SourceConfig(root="a", boxes="b.json")),
    BboxKnnConfig(
        train=SourceConfig(name="scenes", count=5, scene_size=64),
        val=SourceConfig(name="scenes", count=9, scene_size=64),
    ),
    RetrievalConfig(train=MaskedSourceConfig(images="a", masks="b"), val=MaskedSourceConfig(images="a", masks="b")),
]
OTHERS = [
    ImageKnnConfig(train=SourceConfig(root="a"), val=SourceConfig(root="b")),
    BboxKnnConfig(train=SourceConfig(root="a", boxes="b.json"), val=SourceConfig(root="a", boxes="c.json")),
    ImageKnnConfig(
        train=SourceConfig(name="tfds", dataset="a", split="train"),
        val=SourceConfig(name="tfds", dataset="a", split="val"),
    ),
    ImageKnnConfig(
        train=SourceConfig(name="huggingface", root="a", split="train"),
        val=SourceConfig(name="huggingface", root="a", split="val"),
    ),
    RetrievalConfig(
        train=MaskedSourceConfig(images="a", masks="b", names="train.txt"),
        val=MaskedSourceConfig(images="a", masks="b", names="val.txt"),
    ),
    DiscoveryConfig(data=SourceConfig(root="a")),
]


@pytest.mark.parametrize("settings", SAME)
def test_the_same_images_on_both_sides_are_told_of(settings):
    (line,) = task_advice(settings, path="--task")
    assert line.startswith("--task.train and --task.val are the same images")


@pytest.mark.parametrize("settings", OTHERS)
def test_other_images_are_not(settings):
    assert task_advice(settings, path="--task") == []


def test_so_it_is_in_training_where_the_task_is_measured():
    source = {"name": "scenes", "count": 4, "scene_size": 32, "split": "val"}
    for every, told in ((1.0, 1), (0.0, 0)):
        evaluation = {"every_epochs": every, "tasks": ("bbox_knn",), "bbox_knn": {"train": source, "val": source}}
        lines = advice(tiny_config(evaluation=evaluation))
        assert len(lines) == told
        assert all("config.evaluation.bbox_knn.train and" in line for line in lines)
