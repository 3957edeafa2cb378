"""What becomes of a step's metrics: read late, checked, timed, written, watched by the monitor."""

import collections
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flsl_jax.config import Config
from flsl_jax.data.loading.pipeline import HostBatch
from flsl_jax.errors import UserError, not_fatal
from flsl_jax.training import cost
from flsl_jax.training.monitor import first_non_finite
from flsl_jax.training.watching.alarms import Monitor
from flsl_jax.training.watching.writers import open_writers

log = logging.getLogger(__name__)

# Metrics are read this many steps after their step was dispatched, so that the devices never wait for the host. A CPU has done
# the step when it is dispatched; reading late there would only give the time of some steps to others.
_READ_LATE = 3


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A dispatched step whose metrics have not been read yet. `at`: when it was dispatched; `waited`: seconds that the loop had
    waited for batches until then, since the clock was started."""

    step: int
    metrics: Mapping[str, jax.Array]
    batch: HostBatch
    at: float
    waited: float


class Recorder:
    """Takes the metrics of every step and writes those of every `logging.every_steps`-th, some steps later.

    Args:
        config: of the run.
        workdir: where metrics and reports are written, by the first process.
        start: updates done before the first step that is recorded.
        end: the step after which this call of `train` stops; shown as the total.
        total_steps: of the whole run; its last step is always written.
        flops_per_image: of a step, for the MFU.
        last_words: called when a value is not finite; says which checkpoint is left, and whether it is good.
        status: values that are of the run and not of a step, such as its newest checkpoint, for Prometheus.
    """

    def __init__(
        self,
        config: Config,
        *,
        workdir: Path,
        start: int,
        end: int,
        total_steps: int,
        flops_per_image: float,
        last_words: Callable[[], str],
        status: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._config, self._workdir, self._total_steps = config, workdir, total_steps
        self._last_words, self._status, self._alarms = last_words, status, 0
        self._monitor = Monitor(config)
        self._pending: collections.deque[_Pending] = collections.deque()
        self._clock = _Clock(batch_size=config.batch_size, flops_per_image=flops_per_image)
        self._writers = open_writers(
            workdir,
            total_steps=end,
            start_step=start,
            tensorboard=config.logging.tensorboard,
            wandb=config.logging.wandb,
            mlflow=config.logging.mlflow,
            prometheus=config.logging.prometheus,
            is_main=jax.process_index() == 0,
        )

    def start_clock(self, step: int) -> None:
        """Measures rates from now on; `step` updates are done. Thus evaluation and checkpoints do not count as training."""
        self._clock.start(step)

    def waited(self, seconds: float) -> None:
        """Adds time that the loop has waited for a batch."""
        self._clock.wait_seconds += seconds

    def dispatched(self, step: int, metrics: Mapping[str, jax.Array], *, batch: HostBatch) -> None:
        """Takes the metrics of a step that has been dispatched, and reads those of an earlier one.

        Raises:
            UserError: a value of the earlier step is not finite; names the term and the samples.
        """
        waited, now = self._clock.wait_seconds, time.perf_counter()
        self._pending.append(_Pending(step=step, metrics=metrics, batch=batch, at=now, waited=waited))
        self._settle(keep=0 if jax.default_backend() == "cpu" else _READ_LATE)

    def settle(self) -> None:
        """Waits for all steps under way and reads their metrics.

        Raises:
            UserError: a value is not finite; names the term and the samples.
        """
        self._settle(keep=0)

    def evaluated(self, step: int, values: Mapping[str, float]) -> None:
        """Writes what an evaluation has measured."""
        self._write(step, values)

    def close(self) -> None:
        """Closes the files."""
        self._writers.close()

    def _settle(self, *, keep: int) -> None:
        while len(self._pending) > keep:
            item = self._pending.popleft()
            # Where the devices wait for data they have done a step long before it is read, soon after it was dispatched.
            ready = all(_is_ready(value) for value in item.metrics.values())
            values = {name: float(value) for name, value in jax.device_get(item.metrics).items()}
            done = item.at if ready else time.perf_counter()
            self._check_finite(values, item)
            if item.step % self._config.logging.every_steps and item.step != self._total_steps:
                self._writers.tick(item.step, values)
                continue
            values["epoch"] = item.step * self._config.epochs / self._total_steps
            rates = self._clock.rates(item.step, at=done, waited=item.waited)
            raised = self._monitor.update(item.step, values)
            self._alarms += len(raised)
            self._write(item.step, values | rates)
            for alarm in raised:
                log.warning("step %d: %s", alarm.step, alarm.message)

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        self._writers.write(step, values, status={"alarms": float(self._alarms), **self._status()})

    def _check_finite(self, values: dict[str, float], item: _Pending) -> None:
        """Every process sees the same values, so all of them stop; no checkpoint of or after this step exists."""
        term = first_non_finite(values)
        if term is None:
            return
        name = f"nonfinite_step{item.step}_process{jax.process_index()}.json"
        report = {"step": item.step, "term": term, "values": {key: repr(value) for key, value in values.items()}}
        report |= {"sample": np.asarray(item.batch.sample).tolist(), "record": np.asarray(item.batch.record).tolist()}
        with not_fatal(name):
            (self._workdir / name).write_text(json.dumps(report, indent=2))
        first = (item.step - 1) * self._config.batch_size
        raise UserError(
            f"step {item.step}: {term} is {values[term]}, from samples {first} … {first + self._config.batch_size - 1} "
            f"(records in {self._workdir / name}); {self._last_words()}; lower config.optimizer.lr or "
            "config.optimizer.clip_norm, or set config.compute.dtype=float32, and start again"
        )


def _is_ready(value: Any) -> bool:
    return value.is_ready()  # jax.Array has it, but its annotations do not


class _Clock:
    """Rates between two written lines."""

    def __init__(self, *, batch_size: int, flops_per_image: float) -> None:
        self._batch_size, self._flops_per_image = batch_size, flops_per_image
        self.wait_seconds = 0.0
        self._rates: dict[str, float] = {}

    def start(self, step: int) -> None:
        """Starts a new interval after `step`."""
        self._step, self._at, self._waited, self.wait_seconds = step, time.perf_counter(), 0.0, 0.0

    def rates(self, step: int, *, at: float, waited: float) -> dict[str, float]:
        """Images/s, share of the time spent waiting for data, MFU if the devices' peak is known; starts a new interval.

        Args:
            step: the last one of the interval.
            at: when it was done.
            waited: seconds of waiting for the batches up to its own.
        """
        seconds = at - self._at
        if seconds <= 0:  # it was done with the step before
            return self._rates
        images_per_sec = (step - self._step) * self._batch_size / seconds
        share = (waited - self._waited) / seconds
        self._rates = {"images_per_sec": images_per_sec, "data_wait_share": min(1.0, share)}
        peak = cost.peak_flops(jax.devices()[0].device_kind)
        if peak is not None:
            self._rates["mfu"] = images_per_sec * self._flops_per_image / (peak * jax.device_count())
        self._step, self._at, self._waited = step, at, waited
        return self._rates
