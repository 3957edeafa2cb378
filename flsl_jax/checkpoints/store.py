"""The checkpoints of a run that trains, with orbax: asynchronous, atomic, the newest k and the best, verified on restore."""

import contextlib
import errno
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from flsl_jax import parallel
from flsl_jax.checkpoints.digests import DigestHandler, DigestSave, begin_sums, differing
from flsl_jax.checkpoints.folder import list_steps
from flsl_jax.checkpoints.inspection import (
    DIGESTS,
    RUN,
    STATE,
    DamagedCheckpoint,
    digest_of_description,
    read_digests,
)
from flsl_jax.checkpoints.orbax_log import silence_orbax
from flsl_jax.checkpoints.reading import check_fits, damage_of
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)
silence_orbax()

# Bytes that must find room before a save begins.
_PROBE = 2**16


class Checkpoints:
    """The `checkpoints/` folder of a run.

    A checkpoint of step s holds the state after s updates. Saving copies the state off the devices and returns; the
    files are written while training goes on, and the folder takes its name only when they are complete.
    """

    def __init__(self, folder: Path, *, keep: int, best: str | None = None) -> None:
        """Opens the folder, which is created if it does not exist.

        Args:
            folder: of all checkpoints of the run.
            keep: how many of the newest are kept.
            best: name of the metric whose largest value marks one more checkpoint to keep; None: there is none.

        Raises:
            UserError: nothing can be written there.
        """
        self.folder = folder.absolute()
        self._keep, self._best = keep, best
        with contextlib.suppress(OSError):  # the obstacle says why
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        problem = self.obstacle()
        if problem is not None:
            raise UserError(
                f"{folder} cannot be written ({problem}); make room, mend the folder, or take another --workdir"
            )
        self._manager: ocp.CheckpointManager | None = self._open()

    def _open(self) -> ocp.CheckpointManager:
        self._clear_up()
        newest = checkpoint_managers.LatestN(n=self._keep)
        policy, best = newest, self._best
        if best is not None:
            # A checkpoint from before the config named this metric counts as the worst.
            best_one = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics.get(best, -math.inf), n=1, keep_checkpoints_without_metrics=False
            )
            policy = checkpoint_managers.AnyPreservationPolicy([newest, best_one])
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=None if best is None else lambda metrics: metrics.get(best, -math.inf),
                enable_async_checkpointing=True,
            ),
            item_handlers={
                STATE: ocp.StandardCheckpointHandler(),
                RUN: ocp.JsonCheckpointHandler(),
                DIGESTS: DigestHandler(),
            },
        )

    def obstacle(self) -> str | None:
        """Why nothing can be written at present, as the first process sees it; None if something can. All must call it."""
        problem = _probe(self.folder) or _lacks_room(self.folder) if jax.process_index() == 0 else None
        if parallel.as_first(problem is not None):
            return problem or "the first process cannot write"
        return None

    @property
    def latest_step(self) -> int | None:
        """The newest step; of a save under way too. None without any."""
        return None if self._manager is None else self._manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """All steps, the newest first."""
        return [] if self._manager is None else sorted(self._manager.all_steps(), reverse=True)

    @property
    def steps_on_disk(self) -> list[int]:
        """All steps whose names are in the folder, the newest first; they may be damaged."""
        return list_steps(self.folder)

    @property
    def is_busy(self) -> bool:
        """Whether files are being written."""
        return self._manager is not None and self._manager.is_saving_in_progress()

    def save(self, step: int, state: Any, *, run: dict[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts to save; a step that is already there is left alone. What fails later is raised by `wait`.

        Args:
            step: updates done.
            state: pytree of arrays on any devices.
            run: what a reader needs besides the state (the config, versions); plain JSON.
            metrics: what was measured at this step; the one that chooses the best checkpoint is kept with it.
        """
        if self._manager is None:
            self._manager = self._open()
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    STATE: ocp.args.StandardSave(state),
                    RUN: ocp.args.JsonSave(run),
                    DIGESTS: DigestSave(run=digest_of_description(run), arrays=begin_sums(state)),
                }
            ),
            metrics={name: float(value) for name, value in (metrics or {}).items() if name == self._best} or None,
        )

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of `step`, on the devices and with the shardings of `abstract_state` (of `jax.ShapeDtypeStruct`).

        Its arrays are compared with the digests that were written with them, on all processes. All processes must call it.

        Raises:
            DamagedCheckpoint: it cannot be read, or is not as it was saved; on every process.
            UserError: the checkpoint is of another network or optimizer; names what differs.
        """
        checkpoint = self.folder / str(step)
        state = damage = None
        try:
            state = self._read(checkpoint, abstract_state)
        except Exception as error:  # a damaged file raises whatever its reader stumbles over
            damage = damage_of(error, checkpoint)
        _agree(damage, step=step)
        digests = read_digests(checkpoint)
        if digests is None:
            log.warning("the checkpoint of step %d was written without digests; it is used as it is", step)
            return state
        wrong = differing(state, digests.arrays)
        if wrong:
            more = f" and {len(wrong) - 1} more arrays are" if len(wrong) > 1 else " is"
            damage = DamagedCheckpoint(step, f"{wrong[0]}{more} not as saved")
        _agree(damage, step=step)
        return state

    def _read(self, checkpoint: Path, abstract_state: Any) -> Any:
        """Without orbax's manager: that would make processes wait for one whose file is damaged."""
        check_fits(checkpoint, abstract_state)
        handler = ocp.StandardCheckpointHandler()
        state: Any = checkpoint / STATE  # typed as a path of orbax's own
        return jax.block_until_ready(handler.restore(state, args=ocp.args.StandardRestore(abstract_state)))

    def reload(self) -> None:
        """Looks at the folder again, after something in it was moved."""
        if self._manager is not None:
            self._manager.reload()

    def wait(self) -> None:
        """Waits until the current save is committed; if it failed, raises its error."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def discard(self) -> None:
        """Gives up a save that failed: what was written of it is deleted, and the next save opens the folder anew."""
        with contextlib.suppress(Exception):  # it raises the error of the save again
            self.close()
        self._manager = None
        self._clear_up()

    def _clear_up(self) -> None:
        """Deletes what saves have left that never ended; on a full disk the next one needs its room."""
        for left in self.folder.glob("*.orbax-checkpoint-tmp*") if jax.process_index() == 0 else ():
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Waits for the current save, then closes the folder; raises the error of a save that failed."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()


def _probe(folder: Path) -> str | None:
    """Why a file cannot be written in a run's `checkpoints/`; None if it can. The run's own folder is not made anew: where it
    is gone, a disk may be missing."""
    if not folder.parent.is_dir():
        return f"{folder.parent} is gone"
    probe = folder / f".probe{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(_PROBE))
            os.fsync(file.fileno())
        probe.unlink()
    except FileExistsError:
        return "it is not a folder"
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        return error.strerror
    return None


def _lacks_room(folder: Path) -> str | None:
    """Whether the disk is too full for a checkpoint as large as the newest one: a save that fails later is found out later."""
    try:
        steps = list_steps(folder)
        newest = (folder / str(steps[0])).rglob("*") if steps else ()
        needed, free = sum(path.stat().st_size for path in newest if path.is_file()), shutil.disk_usage(folder).free
    except OSError:  # no reason to fail: the save itself will tell
        return None
    if free >= needed:
        return None
    return f"{os.strerror(errno.ENOSPC)}: {free / 2**20:,.1f} MiB free, a checkpoint takes {needed / 2**20:,.1f}"


def _agree(damage: DamagedCheckpoint | None, *, step: int) -> None:
    """Raises on every process if any of them has found damage."""
    found = damage is not None
    if jax.process_count() > 1:
        found = bool(multihost_utils.process_allgather(np.asarray(found)).any())
    if found:
        raise damage or DamagedCheckpoint(step, "another process cannot read it")
