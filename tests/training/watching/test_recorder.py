"""When a step's metrics are written, and the rates that stand beside them."""

import contextlib

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from flsl_jax.data.loading.pipeline import HostBatch
from flsl_jax.training.watching import recorder as recorder_module
from flsl_jax.training.watching.recorder import Recorder
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config

NUMBERS = np.zeros(8, np.int64)
BATCH = HostBatch(images=np.zeros((8, 32, 32, 3), np.uint8), sample=NUMBERS.astype(np.uint32), record=NUMBERS)


def open_recorder(workdir, *, every_steps=1):
    return Recorder(
        tiny_config(logging={"every_steps": every_steps}),
        workdir=workdir,
        start=0,
        end=60,
        total_steps=120,
        flops_per_image=1.0,
        last_words=str,
    )


def test_on_a_cpu_a_line_is_written_with_its_own_step_so_that_rates_are_of_its_time(tmp_path):
    recorder = open_recorder(tmp_path)
    with contextlib.closing(recorder):
        recorder.start_clock(0)
        for step in (1, 2):
            recorder.dispatched(step, {"loss": jnp.float32(step)}, batch=BATCH)
            assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")][-1] == step


class Accelerator:
    """A clock, and steps that take `step_seconds` on a device while the host goes on."""

    def __init__(self, step_seconds):
        self.now, self.free_at, self.step_seconds = 100.0, 100.0, step_seconds

    def dispatch(self):
        self.free_at = max(self.now, self.free_at) + self.step_seconds
        return {"loss": Value(self, self.free_at)}


class Value:
    """A metric that is there at some time; whoever reads it waits until then."""

    def __init__(self, accelerator, at):
        self.accelerator, self.at = accelerator, at

    def is_ready(self):
        return self.accelerator.now >= self.at

    def __array__(self, dtype=None, copy=None):
        self.accelerator.now = max(self.accelerator.now, self.at)
        return np.float32(1.5)


@pytest.fixture
def any_arrays():
    """Annotations are not checked: values of the accelerator above are no JAX arrays."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("any_arrays")
@pytest.mark.parametrize(("data", "device"), [(0.05, 0.25), (0.25, 0.05)], ids=["the devices limit", "the data limit"])
@pytest.mark.parametrize("every_steps", [1, 5])
def test_rates_are_true_around_pauses(tmp_path, monkeypatch, data, device, every_steps):
    """A step takes 0.25 s, so 32 images/s, whatever is between the lines."""
    accelerator = Accelerator(device)
    monkeypatch.setattr(recorder_module.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(recorder_module.time, "perf_counter", lambda: accelerator.now)
    recorder = open_recorder(tmp_path, every_steps=every_steps)
    with contextlib.closing(recorder):
        recorder.start_clock(0)
        for step in range(1, 61):
            accelerator.now += data
            recorder.waited(data)
            recorder.dispatched(step, accelerator.dispatch(), batch=BATCH)
            if step % 20 == 0:  # an evaluation
                recorder.settle()
                accelerator.now += 1000.0
                recorder.start_clock(step)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(every_steps, 61, every_steps))
    # The devices begin when the first batch of all is there, and the host ends when they have done the last one.
    for line in lines:
        assert line["images_per_sec"] == pytest.approx(32, rel=0.2 / every_steps + 0.05), line["step"]
        assert line["data_wait_share"] == pytest.approx(data / 0.25, abs=0.2), line["step"]
