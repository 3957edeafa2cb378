"""A run's folder: whether it can be written, has room, and whether its newest checkpoint is whole and continues."""

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from flsl_jax.checkpoints import DamagedCheckpoint, read_description
from flsl_jax.checkpoints.folder import list_steps
from flsl_jax.checkpoints.reading import check_fits, verify
from flsl_jax.config import Config
from flsl_jax.data.records import Source
from flsl_jax.doctor.config import checkpoint_bytes
from flsl_jax.doctor.finding import Examination, Finding
from flsl_jax.training.keeping.continuing import continue_with, last_step
from flsl_jax.training.keeping.lock_file import user_of
from flsl_jax.training.keeping.resuming import Found, find_newest
from flsl_jax.training.setup import Training, steps_per_epoch
from flsl_jax.training.watching.history import read_alarms
from flsl_jax.workdir import METRICS_FILE, split_metrics

_ADVICE = "look at the folder, or take another --workdir"
# Where no config says how large a checkpoint is.
_LITTLE_ROOM = 2**30


def examine_folder(exam: Examination, workdir: Path, *, config: Config | None, training: Training | None) -> None:
    """Checks that a run's folder, which need not exist yet, can be written and has room for the checkpoints."""
    exam.check("workdir/folder", lambda: _folder(workdir), advice=_ADVICE)
    if not _existing(workdir).is_dir():
        return
    exam.check("workdir/use", lambda: _use(workdir), advice=_ADVICE)
    exam.check("workdir/room", lambda: _room(workdir, config=config, training=training), advice=_ADVICE)


def examine(
    exam: Examination, workdir: Path, *, config: Config | None, training: Training | None, source: Source | None
) -> None:
    """Checks the newest checkpoint of a run and what else the run has left.

    Args:
        exam: is told what is found.
        workdir: the run's folder.
        config: that would continue the run; None: not known.
        training: of that config; None: not known.
        source: the images of that config; None: not known.
    """
    if not _existing(workdir).is_dir():  # said already
        return
    found = exam.obtain("checkpoint/files", lambda: find_newest(workdir), advice=_ADVICE)
    good: list[int] = []
    if found is not None:
        exam.check("checkpoint/whole", lambda: _arrays(workdir, found, good), advice="copy it whole again")
    if good and training is not None:
        exam.check("checkpoint/shapes", lambda: _shapes(workdir, good[0], training), advice=_ADVICE)
    if good and config is not None and source is not None:
        exam.check("checkpoint/continues", lambda: _continues(workdir, good[0], config, source), advice=_ADVICE)
    exam.check("run/metrics", lambda: _metrics(workdir), advice="look at metrics.jsonl")
    if config is not None:
        exam.check("run/monitor", lambda: _monitor(workdir, config), advice="docs/monitor.md")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _folder(workdir: Path) -> Finding:
    name, there = "workdir/folder", _existing(workdir)
    if not there.is_dir():
        return Finding(name=name, colour="red", found=f"{there} is not a folder", advice="name another --workdir")
    for folder in {there, workdir / "checkpoints"}:
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            told = "make it writable, or name another --workdir"
            return Finding(name=name, colour="red", found=f"{folder} cannot be written", advice=told)
    found = f"{workdir} can be written" if workdir.is_dir() else f"{workdir} does not exist yet; a training makes it"
    return Finding(name=name, colour="green", found=found)


def _use(workdir: Path) -> Iterator[Finding]:
    user = user_of(workdir)
    if user is not None:
        told = "end that or wait for it, or name another --workdir; what is said of checkpoints may change meanwhile"
        found = f"{user} trains in it, so that another training would be refused"
        yield Finding(name="workdir/use", colour="yellow", found=found, advice=told)


def _room(workdir: Path, *, config: Config | None, training: Training | None) -> Finding:
    """The free room beside what the checkpoints take that a run keeps, and one more while it is written."""
    name, free = "workdir/room", shutil.disk_usage(_existing(workdir)).free
    found = f"{free / 2**30:,.1f} GiB free"
    if config is None or training is None:
        if free < _LITTLE_ROOM:
            told = "make room: a ViT-S/16 keeps about 2 GiB of checkpoints"
            return Finding(name=name, colour="yellow", found=found, advice=told)
        return Finding(name=name, colour="green", found=found)
    one, kept = checkpoint_bytes(training), config.checkpoint.keep + config.checkpoint.keep_best
    there = sum(path.stat().st_size for path in (workdir / "checkpoints").rglob("*") if path.is_file())
    needed = (kept + 1) * one - there
    found += f"; a checkpoint takes up to {one / 2**20:,.0f} MiB, and the run keeps {kept}"
    if free < one:
        return Finding(name=name, colour="red", found=f"{found}: there is no room for one", advice=_make_room(needed))
    if free < needed:
        return Finding(name=name, colour="yellow", found=f"{found}: the disk will be full", advice=_make_room(needed))
    return Finding(name=name, colour="green", found=found)


def _make_room(needed: int) -> str:
    return f"make room for {math.ceil(needed / 2**20):,} MiB, lower config.checkpoint.keep, or name another --workdir"


def _arrays(workdir: Path, found: Found, good: list[int]) -> Iterator[Finding]:
    """Reads the newest checkpoint whole, and where it is damaged the next one, as a training would; `good` gets its step."""
    name, folder = "checkpoint/whole", workdir / "checkpoints"
    damaged = {error.step: str(error) for error in found.damaged}
    state = ""
    for step in list_steps(folder):
        if step in damaged:
            continue
        try:
            state = verify(folder / str(step))
        except DamagedCheckpoint as error:
            damaged[step] = str(error)
            continue
        good.append(step)
        break
    newest = good[0] if good else 0
    for step, problem in sorted(damaged.items(), reverse=True):
        instead = (
            f"a training passes it over, moves it to checkpoints_damaged/ and goes on from step {newest}"
            if good
            else "put a whole one there, or take another --workdir"
        )
        told = f"copy it whole again if you can; {instead}" if step > newest else "it is not needed: delete it"
        what = f"the checkpoint of step {step} is damaged: {problem}"
        yield Finding(name=name, colour="yellow" if good else "red", found=what, advice=told)
    if good:
        others = len(list_steps(folder)) - len(damaged) - 1
        older = f"; {others} older {'looks' if others == 1 else 'look'} whole by the files" if others else ""
        meaning = "; every array is as it was saved" if state == "intact" else ""
        yield Finding(name=name, colour="green", found=f"the newest, of step {newest}, is {state}{meaning}{older}")
    elif not damaged:
        yield Finding(name=name, colour="green", found="none yet: a training begins at step 0")


def _shapes(workdir: Path, step: int, training: Training) -> Finding:
    check_fits(workdir / "checkpoints" / str(step), training.abstract_state.changing())
    count = len(jax.tree.leaves(training.abstract_state.changing()))
    return Finding(name="checkpoint/shapes", colour="green", found=f"its {count} arrays have the shapes of this config")


def _continues(workdir: Path, step: int, config: Config, source: Source) -> Finding:
    """Whether a training with this config would continue, and how far it is."""
    saved = read_description(workdir / "checkpoints" / str(step))
    continuation = continue_with(config, saved=saved, source=source, allowed=(), workdir=workdir)
    epoch = steps_per_epoch(continuation.config, steps_per_pass=len(source) // config.batch_size)
    end = last_step(continuation.config, total_steps=config.epochs * epoch, begun=step, workdir=workdir)
    changes = f"; changed since then: {'; '.join(map(str, continuation.changes))}" if continuation.changes else ""
    where = "the run is finished" if step == end else f"the same command goes on from there to step {end}"
    return Finding(name="checkpoint/continues", colour="green", found=f"step {step} of {end}: {where}{changes}")


def _metrics(workdir: Path) -> Iterator[Finding]:
    if not (workdir / METRICS_FILE).exists():
        return
    lines, foreign = split_metrics(workdir / METRICS_FILE)
    if foreign:
        found = f"{METRICS_FILE} has {len(lines)} lines and {len(foreign)} that are no metrics"
        told = f"nothing is lost: a run that goes on moves them to {METRICS_FILE}.damaged"
        yield Finding(name="run/metrics", colour="yellow", found=found, advice=told)
    else:
        last = f", the last one of step {lines[-1]['step']}" if lines else ""
        yield Finding(name="run/metrics", colour="green", found=f"{METRICS_FILE} has {len(lines)} lines{last}")


def _monitor(workdir: Path, config: Config) -> Iterator[Finding]:
    """The last message of each alarm that the run's lines raise."""
    lines = split_metrics(workdir / METRICS_FILE)[0]
    if not lines:
        return
    watched = read_alarms(lines, config=config)
    for alarm in {alarm.name: alarm for alarm in watched.raised}.values():
        found, _, told = alarm.message.rpartition(". ")
        what = f"{alarm.name} at step {alarm.step}: {found or told}"
        yield Finding(name="run/monitor", colour="yellow", found=what, advice=f"{told} (docs/monitor.md)")
    if not watched.raised:
        yield Finding(name="run/monitor", colour="green", found=watched.silence)
