"""The training loop: what happens, in order."""

import collections
import contextlib
import dataclasses
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flsl_jax import parallel
from flsl_jax.checkpoints import Checkpoints, committed_step
from flsl_jax.config import Config, to_dict
from flsl_jax.data.pipeline import HostBatch, Loader
from flsl_jax.data.sources import open_source
from flsl_jax.errors import UserError
from flsl_jax.host_memory import keep_host_memory
from flsl_jax.pictures.curves import save_curves
from flsl_jax.training import cost
from flsl_jax.training.guide import check_same_guide, open_guide
from flsl_jax.training.input import device_batches
from flsl_jax.training.interrupt import Interrupt
from flsl_jax.training.monitor import Monitor, first_non_finite
from flsl_jax.training.setup import Training, build_training, describe
from flsl_jax.training.state import TrainState, start_from
from flsl_jax.training.validation import StoppedEvaluating, Validation, draw_features
from flsl_jax.training.writers import Writers, open_writers
from flsl_jax.weights.initial import Initial, read_initial
from flsl_jax.workdir import read_metrics

log = logging.getLogger(__name__)

# Metrics are read this many steps after their step was dispatched, so that the devices are never waited for.
_READ_LATE = 3

# Images in the picture of the features that a run leaves.
_SHOWN_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: updates done, and whether those were all that the config asked for."""

    step: int
    finished: bool


def train(config: Config, *, workdir: Path) -> Outcome:
    """Trains, or continues the run in `workdir` from its newest committed checkpoint.

    Args:
        config: a checked configuration.
        workdir: folder of the run; made where it is not there.

    Raises:
        UserError: anything that the person can mend, before the first step wherever it can be known by then; and a
            non-finite value during training, with the step, the term and the samples.
    """
    parallel.initialize_distributed(config.parallel)
    keep_host_memory()
    if config.compute.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compute.compile_cache)
    loader = open_loader(config)
    mesh = parallel.make_mesh(config.parallel)
    parallel.check_batch(parallel.batch_sharding(mesh), batch_size=config.batch_size)
    validation = Validation.open(config)
    training = build_training(config, mesh=mesh, steps_per_epoch=loader.steps_per_epoch, guide=open_guide(config))
    initial = None
    if not has_checkpoint(workdir):
        initial = read_initial(config) if config.init_from else None
        write_config(config, workdir)
    checkpoints = Checkpoints(
        workdir / "checkpoints", keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    with contextlib.closing(checkpoints), Interrupt(max_hours=config.checkpoint.max_hours) as interrupt:
        run = _Run(config, workdir, training, loader, validation, checkpoints, interrupt, initial)
        outcome = run.execute()
    if jax.process_index() == 0:
        metrics = read_metrics(workdir / "metrics.jsonl")
        if metrics:  # none yet where the run was stopped before its first line
            save_curves(metrics, workdir / "curves.png", log_centroids=math.log(config.head.centroids))
    return outcome


def open_loader(config: Config) -> Loader:
    """The loader of this process's share of every batch."""
    return Loader(
        open_source(config.data),
        batch_size=config.batch_size,
        crop_size=config.views.size,
        seed=config.seed,
        area=config.views.base_area,
        aspect=config.views.aspect,
        flip=config.views.flip,
        workers=config.compute.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_corrupt=config.data.on_corrupt,
    )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in the folder continues; what it started from matters no more then.

    Every process must ask, before any makes the folder, and hears the first one's answer: orbax waits for all of them.
    """
    folder = workdir / "checkpoints"
    return parallel.as_first(folder.is_dir()) and parallel.as_first(committed_step(folder) is not None)


def write_config(config: Config, workdir: Path) -> None:
    """Writes `config.json` into the workdir, which is made where it is not there; the first process only.

    Raises:
        UserError: the folder cannot be written.
    """
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "config.json").write_text(json.dumps(to_dict(config), indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"--workdir={workdir} cannot be written ({error.strerror}); name a folder that can"
            ) from error


@dataclasses.dataclass(frozen=True)
class _Pending:
    """A dispatched step whose metrics were not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    batch: HostBatch


class _Run:
    """One call of `train`: its open parts, and the loop over them."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        training: Training,
        loader: Loader,
        validation: Validation | None,
        checkpoints: Checkpoints,
        interrupt: Interrupt,
        initial: Initial | None,
    ) -> None:
        self._config, self._workdir = config, workdir
        self._training, self._loader, self._validation = training, loader, validation
        self._checkpoints, self._interrupt, self._initial = checkpoints, interrupt, initial
        self._monitor = Monitor(num_centroids=config.head.centroids)
        self._pending: collections.deque[_Pending] = collections.deque()
        self._last: dict[str, float] = {}
        self._knn: dict[str, float] = {}
        self._shown = None if validation is None else validation.images(_SHOWN_IMAGES)

    def execute(self) -> Outcome:
        """Restores or initialises, loops, saves."""
        start = self._checkpoints.latest_step or 0
        total = self._training.total_steps
        end = min(total, self._config.stop_at_step or total)
        if start:
            state = self._restored(start)
            # Only now: a config that does not fit the checkpoint leaves the one that does.
            write_config(self._config, self._workdir)
            log.info("continuing from the checkpoint of step %d in %s", start, self._workdir)
        else:
            state = self._start()
        log.info("%s", describe(self._config, self._training))
        writers = open_writers(
            self._workdir,
            total_steps=end,
            start_step=start,
            tensorboard=self._config.logging.tensorboard,
            wandb=self._config.logging.wandb,
            is_main=jax.process_index() == 0,
        )
        with contextlib.closing(writers):
            measured = self._measured_already(start) or self._validate(state, start, writers)
            step = start
            if measured:
                state, step, measured = self._loop(state, start=start, end=end, writers=writers)
        self._checkpoints.wait()
        if start < step == end and measured:
            draw_features(self._training, state.teacher, self._shown, self._workdir / "features.png")
        return Outcome(step=step, finished=step == end and measured)

    def _restored(self, step: int) -> TrainState:
        check_same_guide(self._training.guide, config=self._config, saved=self._checkpoints.description(step))
        state = self._checkpoints.restore(step, self._training.abstract_state.changing())
        return TrainState(**state, guide=self._training.place_guide())

    def _start(self) -> TrainState:
        state, initial = self._training.init(), self._initial
        if initial is None:
            return state
        log.info("%s", initial.report)
        abstract = self._training.abstract_state
        return start_from(state, backbone=initial.backbone, head=initial.head, abstract_state=abstract)

    def _loop(self, state: Any, *, start: int, end: int, writers: Writers) -> tuple[Any, int, bool]:
        """Steps `start` … `end`; returns the state and the step that were reached, and whether no measurement was cut off."""
        measured = True
        step, clock = start, _Clock(self._config.batch_size, step=start)
        steps_per_epoch = self._loader.steps_per_epoch
        save_every = max(1, round(self._config.checkpoint.every_epochs * steps_per_epoch))
        batches = self._loader.batches(start, end - start)
        feed = device_batches(batches, sharding=self._training.batch_sharding, prefetch=self._config.compute.prefetch)
        with contextlib.closing(feed):
            for batch in feed:
                clock.waited(batch.wait_seconds)
                with jax.transfer_guard("disallow"), _memory_hint():
                    state, metrics = self._training.step(state, batch.images, batch.sample)
                step += 1
                if self._shown is None:
                    self._shown = batch.host.images[:_SHOWN_IMAGES].copy()
                self._pending.append(_Pending(step=step, metrics=metrics, batch=batch.host))
                self._settle(writers, clock, keep=_READ_LATE)
                stop = step == end or self._interrupt.requested(step)
                validate = self._to_be_measured(step, end=end)
                if stop or validate or step % save_every == 0:
                    self._settle(writers, clock, keep=0)
                    measured = not validate or self._validate(state, step, writers)
                    self._save(state, step, measured=validate and measured)
                    clock.restart(step)
                if stop or not measured:
                    break
        if self._interrupt.reason and (step < end or not measured):
            log.warning("stopped at step %d by %s; saved, continue with the same command", step, self._interrupt.reason)
        return state, step, measured

    def _to_be_measured(self, step: int, *, end: int) -> bool:
        every = round(self._config.evaluation.every_epochs * self._training.steps_per_epoch)
        return bool(self._validation is not None and every and (step % every == 0 or step == end))

    def _measured_already(self, start: int) -> bool:
        """Whether nothing is to be measured before the first step: a run that was stopped while measuring does it now."""
        end = min(self._training.total_steps, self._config.stop_at_step or self._training.total_steps)
        if not self._to_be_measured(start, end=end):
            return True
        lines = read_metrics(self._workdir / "metrics.jsonl")
        return parallel.as_first(any(line["step"] == start and self._validation.is_measured(line) for line in lines))

    def _settle(self, writers: Writers, clock: "_Clock", *, keep: int) -> None:
        """Reads the metrics of all but the newest `keep` steps; stops the run on a non-finite value; writes lines."""
        while len(self._pending) > keep:
            item = self._pending.popleft()
            values = {name: float(value) for name, value in jax.device_get(item.metrics).items()}
            self._check_finite(values, item)
            if item.step % self._config.logging.every_steps and item.step != self._training.total_steps:
                writers.tick(item.step, values)
                continue
            self._last = values
            writers.write(item.step, values | clock.rates(item.step, self._training.flops_per_image))
            for alarm in self._monitor.update(item.step, values):
                log.warning("step %d: %s", alarm.step, alarm.message)

    def _check_finite(self, values: dict[str, float], item: _Pending) -> None:
        """Every process sees the same values, so all of them stop; no checkpoint of or after this step exists."""
        term = first_non_finite(values)
        if term is None:
            return
        name = f"nonfinite_step{item.step}_process{jax.process_index()}.json"
        report = {"step": item.step, "term": term, "values": {key: repr(value) for key, value in values.items()}}
        report |= {"sample": np.asarray(item.batch.sample).tolist(), "record": np.asarray(item.batch.record).tolist()}
        (self._workdir / name).write_text(json.dumps(report, indent=2))
        first = (item.step - 1) * self._config.batch_size
        raise UserError(
            f"step {item.step}: {term} is {values[term]}, from samples {first} … {first + self._config.batch_size - 1} "
            f"(records in {self._workdir / name}); the last checkpoint, of step {self._checkpoints.latest_step}, is "
            "intact; lower config.optimizer.lr or config.optimizer.clip_norm, or set config.compute.dtype=float32, and "
            "start again"
        )

    def _validate(self, state: Any, step: int, writers: Writers) -> bool:
        """Measures the teacher; False where the run was asked to stop meanwhile, with nothing written."""
        if self._validation is None:
            return True
        try:
            values = self._validation.measure(
                self._training, state.teacher, stop=self._interrupt.requested, baseline=step == 0
            )
        except StoppedEvaluating:
            log.warning("stopped measuring at step %d by %s", step, self._interrupt.reason)
            return False
        self._knn = values
        writers.write(step, values)
        return True

    def _save(self, state: Any, step: int, *, measured: bool) -> None:
        guide = self._training.guide
        self._checkpoints.save(
            step,
            state.changing(),
            run={
                "config": to_dict(self._config),
                "step": step,
                "guide": None if guide is None else guide.description(),
            },
            best_metric=self._knn.get("knn_any") if measured else None,
        )


class _Clock:
    """Rates between two written lines."""

    def __init__(self, batch_size: int, *, step: int) -> None:
        self._batch_size = batch_size
        self.restart(step)

    def restart(self, step: int) -> None:
        """Starts a new interval after `step`, so that evaluation and checkpoints do not count as training time."""
        self._start, self._wait, self._step = time.perf_counter(), 0.0, step

    def waited(self, seconds: float) -> None:
        """Adds time that the loop waited for a batch."""
        self._wait += seconds

    def rates(self, step: int, flops_per_image: float) -> dict[str, float]:
        """Images/s, share of the time spent waiting for data, and MFU where the devices' peak is known."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        images_per_sec = (step - self._step) * self._batch_size / seconds
        values = {"images_per_sec": images_per_sec, "data_wait_share": min(1.0, self._wait / seconds)}
        peak = cost.peak_flops(jax.devices()[0].device_kind)
        if peak is not None:
            values["mfu"] = images_per_sec * flops_per_image / (peak * jax.device_count())
        self.restart(step)
        return values


@contextlib.contextmanager
def _memory_hint() -> Any:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "the devices ran out of memory; raise config.compute.micro_batches (exact), set "
            "config.compute.remat=dots or full, raise config.parallel.fsdp, or lower config.batch_size"
        ) from error


def summary(config: Config, *, workdir: Path, outcome: Outcome) -> str:
    """The line a run ends with: how much better than at the start its features are, where measured."""
    lines = read_metrics(workdir / "metrics.jsonl")
    where = f"step {outcome.step}{'' if outcome.finished else ' (not the last)'}, {workdir}"
    measured = [line for line in lines if "knn_any" in line]
    if len(measured) > 1:
        first, last = measured[0], measured[-1]
        start = "at the start" if config.init_from else "untrained"
        return (
            f"bbox-aligned k-NN on held-out images, any of 9 tokens: {start} {first['knn_any']:.1%} → trained "
            f"{last['knn_any']:.1%} (raw pixels {first['knn_pixels_any']:.1%}); single tokens: "
            f"{first['knn_token']:.1%} → {last['knn_token']:.1%} (raw pixels {first['knn_pixels_token']:.1%}); {where}"
        )
    if not lines:
        return where
    last = lines[-1]
    shown = ", ".join(
        f"{name} {last[name]:.3g}"
        for name in ("loss", "mean_entropy", "used_centroids", "effective_rank", "attention_share", "agreement")
        if name in last
    )
    return f"{shown} (ln K is {np.log(config.head.centroids):.3g}); {where}"
