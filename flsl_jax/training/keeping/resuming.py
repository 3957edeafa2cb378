"""Which checkpoint a run goes on from: the newest one that is whole. A damaged one is named, passed over and put aside."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from flsl_jax import parallel
from flsl_jax.checkpoints import Checkpoints, DamagedCheckpoint
from flsl_jax.checkpoints.folder import list_steps, set_aside
from flsl_jax.checkpoints.inspection import inspect
from flsl_jax.checkpoints.reading import no_good_checkpoint
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

_ADVICE = "put a whole one there, or take another --workdir to begin again"


@dataclasses.dataclass(frozen=True)
class Found:
    """What is in a workdir: the newest step whose files are whole, or None without any; and on the first process the others."""

    step: int | None
    damaged: tuple[DamagedCheckpoint, ...] = ()


def find_newest(workdir: Path) -> Found:
    """Looks for the newest checkpoint whose files are whole; its arrays are not read yet.

    Every process must call this before any of them creates the folder, because orbax waits for all of them. All of them get
    the first process's answer.

    Raises:
        UserError: there are checkpoints, and all are damaged; or the folder is none.
    """
    folder = workdir / "checkpoints"
    damaged, newest, problem = [], 0, ""
    if jax.process_index() == 0:
        try:
            newest, damaged = _look(folder)
        except OSError as error:
            problem = f"{folder} cannot be read ({error.strerror}); check the folder, or take another --workdir"
    if parallel.as_first(bool(problem)):
        raise UserError(problem or f"the first process cannot read {folder}")
    newest = parallel.as_first(newest)
    if not newest and parallel.as_first(bool(damaged)):
        raise no_good_checkpoint(folder, damaged, advice=_ADVICE)
    return Found(step=newest or None, damaged=tuple(damaged))


def _look(folder: Path) -> tuple[int, list[DamagedCheckpoint]]:
    """The newest whole step, 0 without any, and all that are not whole."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(0, "it is not a folder")
    newest, damaged = 0, []
    for step in list_steps(folder):
        try:
            inspect(folder / str(step))
            newest = max(newest, step)
        except DamagedCheckpoint as error:
            damaged.append(error)
    return newest, damaged


def put_aside(workdir: Path, damaged: Sequence[DamagedCheckpoint]) -> None:
    """Moves damaged checkpoints away and says so; by the first process, while the others wait. All must call it.

    Raises:
        UserError: one cannot be moved.
    """
    for error in damaged if jax.process_index() == 0 else ():
        target = set_aside(workdir / "checkpoints", error.step)
        log.warning(
            "the checkpoint of step %d is damaged: %s; it is passed over, and moved to %s", error.step, error, target
        )
    parallel.as_first(0)


def restore_newest(checkpoints: Checkpoints, abstract_state: Any, *, workdir: Path) -> tuple[int, Any]:
    """Restores the newest checkpoint that is as it was saved. All processes must call it.

    Returns:
        Its step, and its state as `Checkpoints.restore` gives it.

    Raises:
        UserError: none is, or one does not fit the config.
    """
    damaged = []
    for step in checkpoints.steps:
        try:
            state = checkpoints.restore(step, abstract_state)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        if damaged:
            put_aside(workdir, damaged)
            checkpoints.reload()
        return step, state
    raise no_good_checkpoint(workdir / "checkpoints", damaged, advice=_ADVICE)
