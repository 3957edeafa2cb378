"""Every task keeps the contract: its group in the config, what it says about itself, and how its images are counted."""

import dataclasses

import numpy as np
import pytest

from flsl_jax.config import (
    ClusteringConfig,
    CorrespondenceConfig,
    DepthConfig,
    DepthSourceConfig,
    DiscoveryConfig,
    EvaluationConfig,
    ImageKnnConfig,
    KeypointSourceConfig,
    LinearProbeConfig,
    MaskedSourceConfig,
    RetrievalConfig,
    SeparabilityConfig,
    SourceConfig,
    VideoConfig,
)
from flsl_jax.config.evaluation import BEST_METRICS
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, PixelEncoder
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.tasks import TASKS, check_names, open_task, run_task


def test_tasks_are_the_groups_of_the_config() -> None:
    groups = {
        field.name: type(field.default)
        for field in dataclasses.fields(EvaluationConfig)
        if dataclasses.is_dataclass(field.default)
    }
    assert {name: task.settings for name, task in TASKS.items()} == groups
    assert BEST_METRICS.keys() == groups.keys()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_says_what_it_judges_and_needs(task: Task) -> None:
    assert task.judges
    assert task.needs
    assert task.without_model(task.settings()) is False


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    check_names(["video", "discovery"])
    with pytest.raises(UserError, match=r"there is no task 'vide'; did you mean \"video\"\?"):
        check_names(["video", "vide"])


_BOXED = SourceConfig(name="scenes", count=5, scene_size=32, split="val")
_MASKED = MaskedSourceConfig(name="scenes", count=5, scene_size=32, split="val")
_VIDEO = VideoConfig(name="scenes", count=2, scene_size=32, split="val", short_side=32, side_multiple=8, frames=3)
_PAIRED = KeypointSourceConfig(name="scenes", count=5, scene_size=32, split="val")
_DEEP = DepthSourceConfig(name="scenes", count=5, scene_size=32, split="val")
_SETTINGS = {
    "discovery": (DiscoveryConfig(data=_BOXED), 5),
    "separability": (SeparabilityConfig(data=_MASKED), 5),
    "clustering": (ClusteringConfig(data=_MASKED, size=32, clusters=(2,), seeds=1), 5),
    "retrieval": (RetrievalConfig(train=dataclasses.replace(_MASKED, count=7), val=_MASKED, size=32), 12),
    "linear_probe": (LinearProbeConfig(train=_MASKED, val=_MASKED, size=32, epochs=2, keep_gib=0.0), 10),
    "video": (_VIDEO, 6),
    "correspondence": (CorrespondenceConfig(data=_PAIRED, size=32), 5),
    "depth": (DepthConfig(train=_DEEP, val=_DEEP, size=32, crop="none", steps=2, keep_gib=0.0), 10),
}


@pytest.mark.parametrize("name", _SETTINGS)
def test_every_image_counts_once_however_often_it_is_encoded(name: str) -> None:
    settings, images = _SETTINGS[name]
    encoder = PixelEncoder(patch_size=8, image_size=32)
    scores = run_task(name, settings, encoder=encoder, batch_size=4).scores
    assert scores.images == images
    assert BEST_METRICS[name] in scores.metrics


def test_each_batch_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, polled = [], []

    def open_data(settings: ImageKnnConfig, *, patch_size: int, image_size: int, decoding: Decoding) -> tuple[int, int]:
        assert decoding == RGB
        return patch_size, image_size

    def evaluate(encoder: Encoder, settings: ImageKnnConfig, *, batch_size: int, data: tuple[int, int]) -> Scores:
        calls.append((settings.k, batch_size, data, len(polled)))
        for number in (3, 2):
            encoder.tokens(np.zeros((number, 8, 8, 3), np.uint8))
        return Scores(metrics={"number": 1.0}, images=5)

    task = Task(name="image_knn", settings=ImageKnnConfig, open=open_data, evaluate=evaluate, judges="", needs="")
    monkeypatch.setitem(TASKS, "image_knn", task)
    encoder, settings = PixelEncoder(patch_size=8, image_size=16), ImageKnnConfig(k=7)
    data = open_task("image_knn", settings, patch_size=8, image_size=16)
    found = run_task(
        "image_knn", settings, encoder=encoder, batch_size=4, data=data, poll=lambda: polled.append(len(polled))
    )
    assert (found.scores.metrics, calls, polled) == ({"number": 1.0}, [(7, 4, (8, 16), 0)], [0, 1])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task("image_knn", settings, encoder=encoder, batch_size=4, data=data, poll=stop)
