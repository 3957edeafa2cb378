"""Batches on the devices: in order; an error in its place; a loader that is silent heeds a request to stop, and is named."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.records import Record
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import DataError, UserError
from flsl_jax.loop import train
from flsl_jax.parallel import batch_sharding, make_mesh
from flsl_jax.training.input import DeviceBatch, device_batches
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config


class Slow:
    """Eight decoded images; from record 5 on, reading waits until it is released."""

    name = "slow"
    class_names = ()
    digest = "0" * 64

    def __init__(self) -> None:
        self.released = threading.Event()

    def __len__(self) -> int:
        return 8

    def path(self, index: int) -> str:
        return f"image_{index}.png"

    def __getitem__(self, index: int) -> Record:
        if index == 5:
            self.released.wait(60)
            raise DecodeError("released")
        return Record(image=np.full((9, 9, 3), index, np.uint8), name=str(index))


def loader(source: object, patience: float = 0.0) -> Loader:
    return Loader(
        source, batch_size=8, crop_size=8, seed=0, area=(1.0, 1.0), aspect=(1.0, 1.0), patience=patience
    )  # fmt: skip


def feed(batches: object, **options: object) -> contextlib.closing:
    sharding = batch_sharding(make_mesh(tiny_config().parallel))
    return contextlib.closing(device_batches(batches, sharding=sharding, prefetch=2, **options))


def test_batches_come_in_order_and_end() -> None:
    with feed(loader(Scenes(count=8, size=16, split="train")).batches(3, 4)) as batches:
        received = list(batches)
    assert all(isinstance(batch, DeviceBatch) for batch in received)
    assert [batch.host.sample[0] for batch in received] == [24, 32, 40, 48]
    for batch in received:
        np.testing.assert_array_equal(jax.device_get(batch.images), batch.host.images)


def test_a_request_to_stop_is_heeded_while_nothing_comes() -> None:
    source = Slow()
    threading.Timer(2.0, source.released.set).start()
    start = time.monotonic()
    with feed(loader(source).batches(0, 4), stop=lambda: True) as batches:
        assert list(batches) == []
    assert time.monotonic() - start < 5


def test_without_workers_a_silent_loader_is_one_error_and_its_stacks_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Slow()
    threading.Timer(2.5, source.released.set).start()
    with (
        pytest.raises(UserError, match=r"no batch for 1 s, at record 5 of slow \(image_5\.png\)"),
        feed(loader(source, patience=1.0).batches(0, 4)) as batches,
    ):
        list(batches)
    assert "test_input.py" in caplog.text
    assert "__getitem__" in caplog.text


class _Stalling:
    """Scenes of which the 20th reading waits for the metrics of step 2, and then sends a SIGTERM and waits on, or fails."""

    def __init__(self, metrics: Path, *, fails: bool) -> None:
        self._source = Scenes(count=32, size=40, split="train")
        self.name, self.class_names, self.digest = "scenes", self._source.class_names, self._source.digest
        self._metrics, self._fails, self._read = metrics, fails, 0

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        self._read += self._metrics.with_name("config.json").exists()  # before that, a run looks at its images alone
        if self._read == 20:
            deadline = time.monotonic() + 120
            while len(read_metrics(self._metrics)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            if self._fails:
                raise DecodeError("torn")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3)
        return self._source[index]


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_saves_where_its_loader_is_silent_at_sigterm_or_ends_it(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = _Stalling(tmp_path / "metrics.jsonl", fails=fails)
    monkeypatch.setattr("flsl_jax.loop.open_source", lambda data: scenes)
    config = tiny_config(checkpoint={"every_epochs": 3.0}, data={"on_corrupt": "fail"})
    if fails:
        with pytest.raises(DataError, match="of scenes cannot be read: torn"):
            train(config, workdir=tmp_path)
        assert "cannot be read" not in (tmp_path / "metrics.jsonl").read_text()
        assert "torn" in (tmp_path / "unreadable.txt").read_text()
    else:
        outcome = train(config, workdir=tmp_path)
        assert (outcome.step, outcome.finished) == (2, False)
    assert (tmp_path / "checkpoints" / "2").is_dir()
