"""When a step's metrics are written."""

import contextlib

import jax.numpy as jnp
import numpy as np

from flsl_jax.data.pipeline import HostBatch
from flsl_jax.training.recorder import Recorder
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config


def test_on_a_cpu_a_line_is_written_with_its_own_step_so_that_rates_are_of_its_time(tmp_path):
    numbers = np.zeros(8, np.int64)
    batch = HostBatch(images=np.zeros((8, 32, 32, 3), np.uint8), sample=numbers.astype(np.uint32), record=numbers)
    recorder = Recorder(
        tiny_config(logging={"every_steps": 1}),
        workdir=tmp_path,
        start=0,
        end=2,
        total_steps=12,
        flops_per_image=1.0,
        last_words=str,
    )
    with contextlib.closing(recorder):
        recorder.start_clock(0)
        for step in (1, 2):
            recorder.dispatched(step, {"loss": jnp.float32(step)}, batch=batch)
            assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")][-1] == step
