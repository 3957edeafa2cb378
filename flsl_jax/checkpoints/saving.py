"""Saves that may fail: tried again after pauses while training goes on, until there has been none for too long."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flsl_jax import parallel
from flsl_jax.checkpoints.inspection import DamagedCheckpoint
from flsl_jax.checkpoints.reading import verify, why
from flsl_jax.checkpoints.store import Checkpoints
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# Seconds until the next try: doubled after each failure, up to the second number.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 300.0
# With several processes, agreeing on what became of a save takes a small collective, so it is done once in so many steps.
_AGREE_EVERY = 10


class Saving:
    """Writes the checkpoints of a run, whatever happens to the disk.

    Args:
        checkpoints: the opened folder.
        give_up_minutes: after so many minutes of failures only, the run ends.
        on_saved: called after each save that went well, on this process.
    """

    def __init__(
        self, checkpoints: Checkpoints, *, give_up_minutes: float, on_saved: Callable[[], None] | None = None
    ) -> None:
        self._checkpoints, self._give_up_minutes, self._on_saved = checkpoints, give_up_minutes, on_saved
        self._last_good = checkpoints.latest_step
        self._under_way: int | None = None
        self._failing_since: float | None = None
        self._pause, self._next_try = FIRST_PAUSE, 0.0

    def save(self, step: int, state: Any, *, run: dict[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts to save; see `Checkpoints.save`. A failure is logged, not raised. All processes must call it.

        Raises:
            UserError: nothing could be written for too long.
        """
        self._conclude()
        if step == self._last_good:
            return
        problem = self._checkpoints.obstacle()
        if problem is None:
            try:
                self._checkpoints.save(step, state, run=run, metrics=metrics)
            except Exception as error:  # orbax raises what its file layer raises
                problem = why(error)
            if _any(problem is not None):
                self._checkpoints.discard()
                problem = problem or "another process could not begin"
        if problem is None:
            self._under_way = step
        else:
            self._failed(step, problem)

    def retry_due(self, step: int) -> bool:
        """Whether a save that failed is to be tried again after this step; the same answer on every process.

        Raises:
            UserError: nothing could be written for too long.
        """
        if self._under_way is None and self._failing_since is None:
            return False
        if jax.process_count() > 1 and step % _AGREE_EVERY:
            return False
        if self._under_way is not None and not _any(self._checkpoints.is_busy):
            self._conclude()
        if self._under_way is not None or self._failing_since is None:
            return False
        return bool(parallel.as_first(time.monotonic() >= self._next_try))

    def finish(self, again: Callable[[], None]) -> None:
        """Waits until the state is saved; tries again by `again`, which calls `save`, as long as it fails.

        Raises:
            UserError: nothing could be written for too long.
        """
        self._conclude()
        while self._failing_since is not None:
            while time.monotonic() < self._next_try:
                time.sleep(min(0.5, max(0.0, self._next_try - time.monotonic())))
            again()
            self._conclude()

    def last_words(self) -> str:
        """What is left of a run that cannot go on: which checkpoint is good. The first process reads it back, whole."""
        with contextlib.suppress(Exception):
            self._checkpoints.wait()
        if jax.process_index():
            return f"the last checkpoint is of step {self._last_good}"
        damaged = ""
        for step in self._checkpoints.steps_on_disk:
            try:
                found = verify(self._checkpoints.folder / str(step))
            except (DamagedCheckpoint, UserError, OSError) as error:
                damaged += f"the checkpoint of step {step} is damaged ({error}), "
            else:
                return f"{damaged}the last {'good ' if damaged else ''}checkpoint, of step {step}, is {found}"
        return f"{damaged}there is no {'other' if damaged else ''} checkpoint".replace("  ", " ")

    def close(self) -> None:
        """Waits for the save under way, and closes the folder. A failure is logged: what ends the run is worth more."""
        try:
            self._checkpoints.close()
        except Exception as error:  # orbax raises what its file layer raises
            log.warning("the last checkpoint could not be written (%s)", why(error))

    def _conclude(self) -> None:
        """Waits for the save under way, and takes note of what became of it on all processes."""
        if self._under_way is None:
            return
        step, self._under_way = self._under_way, None
        problem = None
        try:
            self._checkpoints.wait()
        except Exception as error:  # orbax raises what its file layer raises
            problem = why(error)
        if _any(problem is not None):
            self._checkpoints.discard()
            self._failed(step, problem or "another process could not write its part")
            return
        if self._failing_since is not None:
            log.warning("the checkpoint of step %d is written; saving works again", step)
        self._last_good, self._failing_since, self._pause = step, None, FIRST_PAUSE
        if self._on_saved is not None:
            self._on_saved()

    def _failed(self, step: int, problem: str) -> None:
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        good = (
            "there is none before it" if self._last_good is None else f"the last good one is of step {self._last_good}"
        )
        if parallel.as_first(now - self._failing_since >= 60 * self._give_up_minutes):
            raise UserError(
                f"the checkpoint of step {step} could not be written in {self._checkpoints.folder} ({problem}), as none for "
                f"config.checkpoint.give_up_minutes = {self._give_up_minutes:g}; {good}; make room or mend the folder, then "
                "the same command goes on from there"
            )
        log.warning(
            "the checkpoint of step %d could not be written in %s (%s); %s; it is tried again in %.0f s",
            step,
            self._checkpoints.folder,
            problem,
            good,
            self._pause,
        )
        self._next_try, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)


def _any(answer: bool) -> bool:
    """Whether it is so on any process. All processes must call it."""
    if jax.process_count() == 1:
        return answer
    return bool(multihost_utils.process_allgather(np.asarray(answer)).any())
