"""Where metrics go: metrics.jsonl, TensorBoard, Weights & Biases, MLflow, Prometheus, and the terminal."""

import contextlib
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flsl_jax.config.evaluation import BEST_METRICS
from flsl_jax.errors import UserError, first_line, import_problem, not_fatal, reason
from flsl_jax.objective import TERMS
from flsl_jax.training.watching.json_lines import JsonLines
from flsl_jax.workdir import METRICS_FILE

log = logging.getLogger(__name__)

_SHOWN = ("loss", *TERMS)
# Of the other evaluations, one value each, and what FLSL's own modes find.
_MEASURED = {f"{task}/{metric}" for task, metric in BEST_METRICS.items()} | {"discovery/modes_corloc"}
# In the workdir: the runs of MLflow and of Weights & Biases that a continued run goes on with, and Prometheus's text file.
_MLFLOW_RUN = "mlflow_run"
_WANDB_RUN = "wandb_run"
PROMETHEUS_FILE = "metrics.prom"


@runtime_checkable
class Writer(Protocol):
    """Takes the values of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes them out."""

    def close(self) -> None:
        """Closes the files."""


class TensorBoard:
    """TensorBoard events, through tensorboardX. TensorBoard hides what a killed run had sent of steps after `start_step`."""

    def __init__(self, folder: Path, *, start_step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self._said = False
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)
        # Its thread would die of a full disk, and the next lines wait for it for ever.
        opened: Any = self._writer.file_writer
        events = opened.event_writer._ev_writer
        events.write_event, events.flush = self._spared(events.write_event), self._spared(events.flush)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()

    def _spared(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def spared(*arguments: Any) -> Any:
            try:
                return write(*arguments)
            except OSError as error:
                if not self._said:
                    log.warning("TensorBoard lacks values (%s); metrics.jsonl has all", reason(error))
                self._said = True

        return spared


class WeightsAndBiases:
    """A run in the project that the config names; its id is kept in the workdir."""

    def __init__(self, project: str, *, workdir: Path, start_step: int) -> None:
        try:
            import wandb
        except Exception as error:  # a broken one raises many types
            problem = import_problem(error, package="wandb", install="pip install wandb")
            raise UserError(f"config.logging.wandb is set, but {problem} or set it to ''") from error
        path = workdir / _WANDB_RUN
        if start_step == 0:
            path.write_text(uuid.uuid4().hex[:8] + "\n")
        # Runs of earlier versions had the name of their folder for an id.
        number = path.read_text().strip() if path.exists() else workdir.name
        self._run = wandb.init(project=project, dir=str(workdir), id=number, name=workdir.name, resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MlFlow:
    """A run in the experiment that the config names, at the tracking server that MLflow's own settings name.

    Values are sent in the background. A server that does not answer costs a warning at the end, no training.
    """

    def __init__(self, experiment: str, *, workdir: Path, start_step: int) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except Exception as error:  # a broken one raises many types
            problem = import_problem(error, package="mlflow", install="pip install mlflow-skinny")
            raise UserError(f"config.logging.mlflow is set, but {problem} or set it to ''") from error
        path = workdir / _MLFLOW_RUN
        try:
            self._client = MlflowClient()
            if start_step > 0 and path.exists():
                self._run = path.read_text().strip()
                self._client.update_run(self._run, status="RUNNING")
            else:
                found = self._client.get_experiment_by_name(experiment)
                number = found.experiment_id if found else self._client.create_experiment(experiment)
                self._run = self._client.create_run(number, run_name=workdir.name).info.run_id
                path.write_text(self._run + "\n")
        except MlflowException as error:
            raise UserError(
                f"config.logging.mlflow = {experiment!r}: the server does not take it ({first_line(error)}); check "
                "MLFLOW_TRACKING_URI, or set it to ''"
            ) from error
        self._sent: Any = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._sent = self._client.log_batch(self._run, metrics=metrics, synchronous=False)

    def close(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            if self._sent is not None:
                self._sent.wait()  # values are sent in order
            self._client.set_terminated(self._run)
        except MlflowException as error:
            log.warning("MLflow may lack values (%s); metrics.jsonl has all", first_line(error))


class Prometheus:
    """The newest value of everything as gauges in a text file, for the textfile collector of Prometheus's node exporter."""

    def __init__(self, path: Path) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except Exception as error:  # a broken one raises many types
            problem = import_problem(error, package="prometheus_client", install="pip install prometheus-client")
            raise UserError(f"config.logging.prometheus is set, but {problem} or set it to False") from error
        self._path, self._registry = path, CollectorRegistry()
        self._gauges: dict[str, Any] = {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from prometheus_client import Gauge, write_to_textfile

        for name, value in ({"step": step, "timestamp_seconds": time.time()} | dict(values)).items():
            if name not in self._gauges:
                gauge = "flsl_" + re.sub(r"\W", "_", name)
                self._gauges[name] = Gauge(gauge, f"{name}, of the newest line", ["run"], registry=self._registry)
            self._gauges[name].labels(self._path.parent.name).set(value)
        with not_fatal(PROMETHEUS_FILE):
            write_to_textfile(str(self._path), self._registry)

    def close(self) -> None:
        """The file stays."""


class Terminal:
    """A progress bar with the loss terms on a terminal, with a line above it for each evaluation; plain lines elsewhere.

    A plain line ends with the time that is left, at the rate since the first one, in which compiling was.
    """

    def __init__(self, *, start_step: int, total_steps: int) -> None:
        from tqdm import tqdm

        self._total = total_steps
        self._first: tuple[int, float] | None = None
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total_steps, initial=start_step, unit="step", dynamic_ncols=True, smoothing=0.05)

    def tick(self, step: int, values: Mapping[str, float]) -> None:
        """A step whose values are not written; moves the bar."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{values[name]:.3f}" for name in _SHOWN if name in values}, refresh=False)
            self._bar.update(step - self._bar.n)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        shown = [name for name in (*_SHOWN, "images_per_sec", "data_wait_share") if name in values]
        measured = [name for name in values if name.startswith("knn") or name in _MEASURED]
        line = "  ".join(f"{name} {values[name]:.4g}" for name in (*shown, *measured))
        if not line:
            return
        line = f"step {step}/{self._total}  {line}"
        if self._bar is None:
            print(line + self._time_left(step), file=sys.stderr, flush=True)
            return
        if measured:
            self._bar.write(line, file=sys.stderr)
        self.tick(step, values)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _time_left(self, step: int) -> str:
        from tqdm import tqdm

        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        first_step, first_time = self._first
        if not first_step < step < self._total:
            return ""
        return f"  {tqdm.format_interval((self._total - step) * (now - first_time) / (step - first_step))} left"


class Writers:
    """All writers of a run as one. Processes other than the first have none."""

    def __init__(
        self, writers: list[Writer], *, terminal: Terminal | None, prometheus: Prometheus | None = None
    ) -> None:
        self._writers, self._terminal, self._prometheus = writers, terminal, prometheus

    def write(self, step: int, values: Mapping[str, float], *, status: Mapping[str, float] | None = None) -> None:
        """The values of a step, everywhere; `status`, which is of the run and not of the step, for Prometheus alone."""
        for writer in self._writers:
            writer.write(step, values)
        if self._prometheus is not None:
            self._prometheus.write(step, {**values, **(status or {})})
        if self._terminal is not None:
            self._terminal.write(step, values)

    def tick(self, step: int, values: Mapping[str, float]) -> None:
        """A step whose values are only shown."""
        if self._terminal is not None:
            self._terminal.tick(step, values)

    def close(self) -> None:
        """Closes all."""
        for writer in [*self._writers, *([self._terminal] if self._terminal is not None else [])]:
            writer.close()


def open_writers(
    workdir: Path,
    *,
    total_steps: int,
    start_step: int,
    tensorboard: bool,
    wandb: str,
    mlflow: str,
    is_main: bool,
    prometheus: bool = False,
) -> Writers:
    """The writers of a run that starts after `start_step`.

    Raises:
        UserError: what is asked for is not installed, or MLflow's server refuses the run.
    """
    if not is_main:
        return Writers([], terminal=None)
    others: list[Writer] = []  # opened first: what refuses one must not leave the file of the metrics open
    if tensorboard:
        others.append(TensorBoard(workdir / "tensorboard", start_step=start_step))
    gauges = Prometheus(workdir / PROMETHEUS_FILE) if prometheus else None
    if wandb:
        others.append(WeightsAndBiases(wandb, workdir=workdir, start_step=start_step))
    if mlflow:
        others.append(MlFlow(mlflow, workdir=workdir, start_step=start_step))
    writers = [JsonLines(workdir / METRICS_FILE, start_step=start_step), *others]
    return Writers(writers, terminal=Terminal(start_step=start_step, total_steps=total_steps), prometheus=gauges)
