"""A worker that is killed, stopped or hangs is started again and its items are made again, exactly; nothing waits for ever."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.data.loading.crew import Cancelled, Crew
from flsl_jax.data.loading.pipeline import HostBatch, Loader
from flsl_jax.data.records import Record
from flsl_jax.errors import UserError


class Pixels:
    """Decoded images; record `bad` does something to its worker, as long as the file `once` is there."""

    name = "pixels"
    class_names = ()
    digest = "0" * 64

    def __init__(self, *, bad: int = -1, act: str = "", once: Path | None = None) -> None:
        self._bad, self._act, self._once = bad, act, once

    def __len__(self) -> int:
        return 40

    def path(self, index: int) -> str:
        return f"image_{index}.png"

    def __getitem__(self, index: int) -> Record:
        in_worker = multiprocessing.parent_process() is not None
        if in_worker and index == self._bad and (self._once is None or self._once.exists()):
            if self._once is not None:
                self._once.unlink()
            self._misbehave()
        image = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        return Record(image=image, name=f"{index}")

    def _misbehave(self) -> None:
        if self._act == "hang":
            hang_in_this_function()
        os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[self._act])


def hang_in_this_function() -> None:
    time.sleep(600)


def read(source: Pixels, *, workers: int, patience: float = 0.0) -> list[HostBatch]:
    crop = {"crop_size": 8, "area": (0.8, 1.0), "aspect": (3 / 4, 4 / 3)}
    loader = Loader(source, batch_size=4, seed=7, workers=workers, patience=patience, **crop)
    with contextlib.closing(loader.batches(0, 30)) as batches:
        return list(batches)


def assert_equal(first: list[HostBatch], second: list[HostBatch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.sample, b.sample)
        np.testing.assert_array_equal(a.record, b.record)


@pytest.mark.parametrize(
    ("act", "patience", "said", "shared"),
    [("kill", 0.0, "SIGKILL", True), ("stop", 1.0, "for 1 s", False), ("hang", 1.0, "for 1 s", True)],
)
def test_a_lost_worker_is_replaced_and_the_batches_are_the_same(
    act: str,
    patience: float,
    said: str,
    shared: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not shared:
        monkeypatch.setattr("flsl_jax.data.loading.pipeline.open_memory", lambda **_: None)
    monkeypatch.setattr("flsl_jax.data.loading.crew._STACK_SECONDS", 1.0)
    once = tmp_path / "once"
    once.touch()
    with caplog.at_level(logging.WARNING):
        batches = read(Pixels(bad=11, act=act, once=once), workers=2, patience=patience)
    assert not once.exists()
    assert_equal(batches, read(Pixels(), workers=0))
    (warning,) = [message for message in caplog.messages if "is started again" in message]
    assert said in warning
    assert "record 11 of pixels (image_11.png)" in warning
    if act == "hang":
        assert "in hang_in_this_function" in caplog.text
    if act == "stop":
        assert "does not answer (state T (stopped))" in caplog.text


def test_workers_killed_at_any_time_lose_and_repeat_nothing(tmp_path: Path) -> None:
    crop = {"crop_size": 8, "area": (0.8, 1.0), "aspect": (3 / 4, 4 / 3)}
    loader = Loader(Pixels(), batch_size=4, seed=7, workers=2, **crop)
    batches = loader.batches(0, 30)
    (crew,) = batches._chunks
    read_batches = []
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            read_batches.append(batch)
            if number in (3, 4, 24):
                os.kill(crew.process_ids[number % 2], signal.SIGKILL)
    assert_equal(read_batches, read(Pixels(), workers=0))


@pytest.mark.parametrize("act", ["kill", "hang"])
def test_an_image_that_always_ends_its_worker_is_named_in_one_error(act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flsl_jax.data.loading.crew._STACK_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"at record 11 of pixels \(image_11\.png\), for the 3rd time in a row"):
        read(Pixels(bad=11, act=act), workers=1, patience=1.0 if act == "hang" else 0.0)


def _square(index: int, note: Callable[[int], None]) -> int:
    note(index)
    if index == 7:
        raise FileNotFoundError("the seventh")
    return index * index


def _crew(**options: object) -> Crew:
    settings = {"workers": 2, "patience": 0.0, "name_record": str, "lost": lambda worker, kept: None}
    return Crew(_square, **({"start": 2, "stop": 9} | settings | options))


def test_items_come_in_order_and_an_error_in_its_place() -> None:
    with contextlib.closing(_crew()) as crew:
        assert [next(crew) for _ in range(5)] == [4, 9, 16, 25, 36]
        with pytest.raises(FileNotFoundError, match="the seventh"):
            next(crew)
    with pytest.raises(StopIteration):
        next(crew)
    assert not multiprocessing.active_children()


def test_one_process_makes_every_wth_item_so_that_a_slot_has_one_writer() -> None:
    with contextlib.closing(Crew(lambda index, note: (index, os.getpid()), start=5, stop=14, workers=3, patience=0.0,
                                 name_record=str, lost=lambda worker, kept: None)) as crew:  # fmt: skip
        items = [*crew]
    assert [index for index, _ in items] == [*range(5, 14)]
    processes = [process for _, process in items]
    assert processes == processes[:3] * 3
    assert len(set(processes)) == 3


def test_another_thread_can_end_the_wait() -> None:
    with contextlib.closing(Crew(lambda index, note: time.sleep(600), start=0, stop=9, workers=1, patience=0.0,
                                 name_record=str, lost=lambda worker, kept: None)) as crew:  # fmt: skip
        threading.Timer(0.3, crew.cancel).start()
        with pytest.raises(Cancelled):
            next(crew)
