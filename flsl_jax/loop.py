"""The training loop: what happens, in order."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flsl_jax import parallel
from flsl_jax.checkpoints import Checkpoints, Saving, read_description
from flsl_jax.config import Config, advice
from flsl_jax.config.saved import append_changes, write_first_config
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import DataError, not_fatal
from flsl_jax.host_memory import keep_host_memory
from flsl_jax.pictures.curves import save_curves
from flsl_jax.processes import connected
from flsl_jax.training.compiling import announced, compiled_together, memory_hint
from flsl_jax.training.guide import check_same_guide, open_guide
from flsl_jax.training.input import device_batches, open_loader
from flsl_jax.training.keeping.continuing import Continuation, check_same_data, continue_with, describe_run, last_step
from flsl_jax.training.keeping.interrupt import Interrupt
from flsl_jax.training.keeping.lock import check_lock, locked
from flsl_jax.training.keeping.lock_file import Lock
from flsl_jax.training.keeping.mirror import Mirror, mirrored
from flsl_jax.training.keeping.resuming import find_newest, put_aside, restore_newest
from flsl_jax.training.keeping.window import settled_images
from flsl_jax.training.setup import Training, build_training, describe, few_images, steps_per_epoch
from flsl_jax.training.state import TrainState, start_from
from flsl_jax.training.summary import summarise
from flsl_jax.training.validation import StoppedEvaluating, Validation, draw_tokens, metric_key
from flsl_jax.training.watching.history import read_alarms
from flsl_jax.training.watching.profiling import Profiler
from flsl_jax.training.watching.recorder import Recorder
from flsl_jax.training.watching.watchdog import Watchdog
from flsl_jax.typing import UInt8
from flsl_jax.weights.initial import Initial, read_initial
from flsl_jax.weights.start import write_start
from flsl_jax.workdir import CONFIG_FILE, METRICS_FILE, read_metrics

log = logging.getLogger(__name__)

# Images in the pictures of the tokens that a run leaves.
_SHOWN_IMAGES = 8


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: updates done, and whether those were all that the config asked for."""

    step: int
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What a call of `train` has opened.

    `end`: the step after which it stops; `continuation`: from the newest checkpoint whose files are whole; `allowed`: what may
    have changed since.
    """

    config: Config
    workdir: Path
    lock: Lock | None
    training: Training
    loader: Loader
    validation: Validation | None
    checkpoints: Checkpoints
    saving: Saving
    interrupt: Interrupt
    watchdog: Watchdog
    profiler: Profiler
    end: int
    continuation: Continuation
    allowed: Sequence[str]

    def measures_after(self, step: int) -> bool:
        """Whether the config wants the evaluations after `step` updates; 0 is before the first one."""
        every = round(self.config.evaluation.every_epochs * self.training.steps_per_epoch)
        return bool(self.validation is not None and every and (step % every == 0 or step == self.end))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reached:
    """Where the loop ended.

    `complete`: no evaluation was cut off. `images`: the first ones of the first batch; None without a step.
    """

    state: TrainState
    step: int
    complete: bool = True
    images: UInt8[np.ndarray, "I S S C"] | None = None


def train(
    config: Config,
    *,
    workdir: Path,
    allow_changes: Sequence[str] = (),
    profile_steps: tuple[int, int] | None = None,
) -> Outcome:
    """Trains, or continues the run in `workdir` from its newest committed checkpoint.

    Args:
        config: a checked configuration.
        workdir: folder of the run; created if it does not exist.
        allow_changes: keys of the config, or groups of them, that may differ from those that the run was trained with, although
            the numbers then differ too.
        profile_steps: first and last step of a profiler's trace, which is written to the workdir's folder `profile`.

    Raises:
        UserError: anything that the user can fix, before the first step if it can be known by then; and a
            non-finite value during training, with the step, the term and the samples.
    """
    with connected(config), mirrored(config.checkpoint.mirror, workdir) as mirror:
        outcome = _train(
            config, workdir=workdir, allow_changes=allow_changes, profile_steps=profile_steps, mirror=mirror
        )
        if jax.process_index() == 0:
            _draw_curves(config, workdir)
    return outcome


def _train(
    config: Config,
    *,
    workdir: Path,
    allow_changes: Sequence[str],
    profile_steps: tuple[int, int] | None,
    mirror: Mirror | None,
) -> Outcome:
    """What `train` does between connecting the processes and drawing the curves."""
    keep_host_memory()
    if config.compute.compile_cache:
        jax.config.update("jax_compilation_cache_dir", config.compute.compile_cache)
    source = open_source(config.data)
    check_same_data(source, config=config)
    found = find_newest(workdir)
    config = settled_images(config, source, saved=_saved(found.step, workdir=workdir))
    loader = open_loader(config, source=source)
    continuation = _continuation(config, found.step, workdir=workdir, source=source, allowed=allow_changes)
    config = continuation.config
    mesh = parallel.make_mesh(config.parallel)
    parallel.check_batch(parallel.batch_sharding(mesh), batch_size=config.batch_size)
    validation = Validation.open(config)
    training = build_training(
        config,
        mesh=mesh,
        steps_per_epoch=steps_per_epoch(config, steps_per_pass=loader.steps_per_pass),
        guide=open_guide(config),
    )
    end = last_step(config, total_steps=training.total_steps, begun=continuation.begun, workdir=workdir)
    initial = read_initial(config) if config.init_from and not continuation.begun else None
    best = metric_key(config.evaluation.best_metric) if config.checkpoint.keep_best else None
    with contextlib.ExitStack() as opened:
        lock = opened.enter_context(locked(workdir))
        if not continuation.begun:
            _begin(config, workdir, initial=initial)
        put_aside(workdir, found.damaged)
        checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep, best=best)
        saving = Saving(
            checkpoints,
            give_up_minutes=config.checkpoint.give_up_minutes,
            on_saved=None if mirror is None else mirror.update,
        )
        opened.callback(saving.close)
        run = _Run(
            config=config,
            workdir=workdir,
            lock=lock,
            training=training,
            loader=loader,
            validation=validation,
            checkpoints=checkpoints,
            saving=saving,
            interrupt=opened.enter_context(Interrupt(max_hours=config.checkpoint.max_hours)),
            watchdog=opened.enter_context(Watchdog(workdir, minutes=config.logging.watchdog_minutes)),
            profiler=opened.enter_context(Profiler(workdir / "profile", steps=profile_steps)),
            end=end,
            continuation=continuation,
            allowed=allow_changes,
        )
        return _execute(run, initial=initial)


def _draw_curves(config: Config, workdir: Path) -> None:
    metrics = read_metrics(workdir / METRICS_FILE)
    if not metrics:  # the run was stopped before its first line
        return
    alarms = read_alarms(metrics, config=config).raised
    with not_fatal("curves.png"):
        save_curves(metrics, workdir / "curves.png", log_centroids=math.log(config.head.centroids), alarms=alarms)


def _continuation(
    config: Config, step: int | None, *, workdir: Path, source: Source, allowed: Sequence[str]
) -> Continuation:
    """How the run in the workdir goes on from a checkpoint, or that a new one begins; see `continue_with`."""
    saved = _saved(step, workdir=workdir)
    if saved is None:
        return Continuation(config=config)
    return continue_with(config, saved=saved, source=source, allowed=allowed, workdir=workdir)


def _saved(step: int | None, *, workdir: Path) -> dict[str, Any] | None:
    """What the checkpoint of a step says of its run; None without one."""
    return None if step is None else read_description(workdir / "checkpoints" / str(step))


def _begin(config: Config, workdir: Path, *, initial: Initial | None) -> None:
    """Writes what the workdir keeps of a run's beginning."""
    if jax.process_index() == 0:
        write_first_config(config, workdir / CONFIG_FILE)
        with not_fatal("the weights that the run starts from"):
            write_start(initial, config, workdir)


def _execute(run: _Run, *, initial: Initial | None) -> Outcome:
    """Restores or initialises, evaluates, loops, draws."""
    start, state = _restore(run) if run.continuation.begun else (0, _initialise(run.training, initial))
    images = len(run.loader.source)
    log.info("%s", describe(run.config, run.training, images=images))
    for line in [*advice(run.config), *few_images(images, started=bool(run.config.init_from))]:
        log.warning("%s", line)
    recorder = Recorder(
        run.config,
        workdir=run.workdir,
        start=start,
        end=run.end,
        total_steps=run.training.total_steps,
        flops_per_image=run.training.flops_per_image,
        last_words=run.saving.last_words,
        status=lambda: {"last_checkpoint_step": float(run.checkpoints.latest_step or 0)},
    )
    with contextlib.closing(recorder), _damage_named(run):
        reached = _Reached(state=state, step=start)
        if _lacks_measurement(run, start) and _measure(run, recorder, state, step=start) is None:
            reached = dataclasses.replace(reached, complete=False)
        else:
            reached = _loop(run, recorder, state, start=start)
    run.saving.finish(lambda: _save(run, reached.state, step=reached.step, measured={}))
    if run.interrupt.reason and (reached.step < run.end or not reached.complete):
        log.warning(
            "stopped at step %d by %s; saved, continue with the same command", reached.step, run.interrupt.reason
        )
    finished = reached.step == run.end and reached.complete
    if finished and reached.images is not None:  # without a step the picture exists already
        evaluated = None if run.validation is None else run.validation.images(_SHOWN_IMAGES)
        shown = reached.images if evaluated is None else evaluated
        with not_fatal("features.png"):
            draw_tokens(run.training, reached.state.teacher, shown, run.workdir)
    return Outcome(step=reached.step, finished=finished)


@contextlib.contextmanager
def _damage_named(run: _Run) -> Iterator[None]:
    """At the end, however it comes, lists the images that could not be read."""
    try:
        yield
    finally:
        process = jax.process_index()
        run.loader.damage.write(run.workdir / (f"unreadable_process{process}.txt" if process else "unreadable.txt"))


def _restore(run: _Run) -> tuple[int, TrainState]:
    """Step and state of the newest good checkpoint. Once this config is known to fit, its changes are added to config.json."""
    saved = read_description(run.workdir / "checkpoints" / str(run.continuation.begun))
    check_same_guide(run.training.guide, config=run.config, saved=saved)
    step, state = restore_newest(run.checkpoints, run.training.abstract_state.changing(), workdir=run.workdir)
    continuation = run.continuation
    if step != continuation.begun:
        continuation = _continuation(
            run.config, step, workdir=run.workdir, source=run.loader.source, allowed=run.allowed
        )
    if continuation.changes and jax.process_index() == 0:
        append_changes(continuation.changes, run.workdir / CONFIG_FILE, step=step)
    return step, TrainState(**state, guide=run.training.place_guide())


def _initialise(training: Training, initial: Initial | None) -> TrainState:
    state = training.init()
    if initial is None:
        return state
    log.info("%s", initial.report)
    return start_from(state, backbone=initial.backbone, head=initial.head, abstract_state=training.abstract_state)


def _loop(run: _Run, recorder: Recorder, state: TrainState, *, start: int) -> _Reached:
    """Steps `start` … `run.end`, with evaluations and checkpoints in between; ends early when asked to stop."""
    step, complete, images, take_step = start, True, None, run.training.step
    save_every = max(1, round(run.config.checkpoint.every_epochs * run.training.steps_per_epoch))
    batches = run.loader.batches(start, run.end - start)
    feed = device_batches(
        batches,
        sharding=run.training.batch_sharding,
        prefetch=run.config.compute.prefetch,
        stop=run.interrupt.requested_alone,
    )
    recorder.start_clock(step)
    with contextlib.closing(feed):
        try:
            for batch in feed:
                recorder.waited(batch.wait_seconds)
                run.profiler.before(step + 1)
                compiling = announced(run.workdir) if images is None else contextlib.nullcontext()
                with jax.transfer_guard("disallow"), memory_hint(), compiling:
                    if images is None:
                        take_step = compiled_together(take_step, state, batch.images, batch.sample)
                    state, metrics = take_step(state, batch.images, batch.sample)
                step += 1
                images = batch.host.images[:_SHOWN_IMAGES].copy() if images is None else images
                run.profiler.after(step, metrics)
                recorder.dispatched(step, metrics, batch=batch.host)
                run.watchdog.beat(step, batch.host.sample.tolist())
                stop = step == run.end or run.interrupt.requested(step)
                evaluates = run.measures_after(step)
                if stop or evaluates or step % save_every == 0 or run.saving.retry_due(step):
                    recorder.settle()
                    with run.watchdog.paused():
                        values = _measure(run, recorder, state, step=step) if evaluates else {}
                        complete = values is not None
                        _save(run, state, step=step, measured=values or {})
                    recorder.start_clock(step)
                if stop or not complete:
                    break
            else:  # asked to stop while no batch came
                _save_reached(run, recorder, state, step=step, start=start)
        except DataError:
            if jax.process_count() == 1:  # several would have to agree
                _save_reached(run, recorder, state, step=step, start=start)
            raise
    return _Reached(state=state, step=step, complete=complete, images=images)


def _save_reached(run: _Run, recorder: Recorder, state: TrainState, *, step: int, start: int) -> None:
    """Saves what was learned since the last checkpoint, where the loop ends without a batch."""
    if step != start and run.checkpoints.latest_step != step:
        recorder.settle()
        _save(run, state, step=step, measured={})


def _lacks_measurement(run: _Run, start: int) -> bool:
    """Whether an evaluation is due before the first step: at the start of a run, or if it was stopped while evaluating."""
    if run.validation is None or not run.measures_after(start):
        return False
    lines = read_metrics(run.workdir / METRICS_FILE)
    measured = any(line["step"] == start and run.validation.is_measured(line) for line in lines)
    return not parallel.as_first(measured)


def _measure(run: _Run, recorder: Recorder, state: TrainState, *, step: int) -> dict[str, float] | None:
    """Evaluates the teacher and writes the values. If the run was asked to stop meanwhile: returns None, writes nothing."""
    assert run.validation is not None
    try:
        values = run.validation.measure(run.training, state.teacher, stop=run.interrupt.requested, baseline=step == 0)
    except StoppedEvaluating:
        log.warning("stopped measuring at step %d by %s", step, run.interrupt.reason)
        return None
    recorder.evaluated(step, values)
    return values


def _save(run: _Run, state: TrainState, *, step: int, measured: dict[str, float]) -> None:
    guide = run.training.guide
    check_lock(run.lock)
    run.saving.save(
        step,
        state.changing(),
        run=describe_run(
            run.config,
            step=step,
            source=run.loader.source,
            guide=None if guide is None else guide.description(),
        ),
        metrics=measured,
    )


def summary(config: Config, *, workdir: Path, outcome: Outcome) -> str:
    """The last line of a run: how much better its features are than at the start, if that was measured."""
    lines = read_metrics(workdir / METRICS_FILE)
    where = f"step {outcome.step}{'' if outcome.finished else ' (not the last)'}, {workdir}"
    return f"{summarise(config, lines, step=outcome.step)}; {where}"
