"""Says what a run does that has fallen silent: what every thread is at, and the samples of the last step."""

import contextlib
import faulthandler
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import jax

log = logging.getLogger(__name__)


class Watchdog:
    """Context whose thread writes a report when no step has ended for some time; once for every silence.

    It watches from the first step's end on, since compiling takes as long as it takes, and not while it is paused.

    Args:
        folder: where reports are written, as `silent_step{STEP}_process{PROCESS}.txt`.
        minutes: without a step's end; 0: it never reports.
    """

    def __init__(self, folder: Path, *, minutes: float) -> None:
        self._folder, self._minutes = folder, minutes
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._last: float | None = None
        self._step, self._sample = 0, ()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._minutes:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._minutes:
            self._thread.join()

    def beat(self, step: int, sample: Sequence[int]) -> None:
        """A step has ended, or has at least been handed to the devices, which do not run far behind.

        Args:
            step: its number.
            sample: numbers of its samples.
        """
        with self._lock:
            self._last, self._step, self._sample = time.monotonic(), step, sample

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context in which silence is no matter: measuring and saving take as long as they take."""
        with self._lock:
            self._last = None
        try:
            yield
        finally:
            with self._lock:
                self._last = time.monotonic()

    def _watch(self) -> None:
        seconds = 60 * self._minutes
        while not self._ended.wait(seconds / 10):
            with self._lock:
                silent = self._last is not None and time.monotonic() - self._last > seconds
                if silent:
                    self._last = None
            if silent:
                self._report()

    def _report(self) -> None:
        path = self._folder / f"silent_step{self._step}_process{jax.process_index()}.txt"
        try:
            with path.open("w") as file:
                file.write(f"No step ended for {self._minutes:g} minutes after step {self._step}.\n")
                file.write(f"Samples of that step: {' '.join(map(str, self._sample))}\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as error:
            log.warning("no step ended for %g minutes after step %d; %s", self._minutes, self._step, error)
            return
        log.warning(
            "no step ended for %g minutes after step %d; %s has what every thread does", self._minutes, self._step, path
        )
