"""A trace of what the devices and the host do in some steps, for TensorBoard, XProf or Perfetto."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import jax

log = logging.getLogger(__name__)

# What a signal asks for: enough to see the steps of steady training, and small enough to open.
_STEPS_BY_SIGNAL = 5


class Profiler:
    """Context in which the steps that are asked for are traced; SIGUSR2 asks for the next five.

    Args:
        folder: where traces are written.
        steps: numbers of the first and the last step to trace; None: none until a signal comes.
    """

    def __init__(self, folder: Path, *, steps: tuple[int, int] | None = None) -> None:
        self._folder, self._steps = folder, steps
        self._asked = self._tracing = False
        self._previous: Any = None

    def __enter__(self) -> "Profiler":
        if threading.current_thread() is threading.main_thread():  # no other takes signals
            self._previous = signal.signal(signal.SIGUSR2, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._previous is not None:
            signal.signal(signal.SIGUSR2, self._previous)

    def before(self, step: int) -> None:
        """Starts a trace if this step is the first that is asked for."""
        if self._asked and not self._tracing:
            self._asked, self._steps = False, (step, step + _STEPS_BY_SIGNAL - 1)
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._tracing = True

    def after(self, step: int, metrics: Any) -> None:
        """Ends the trace if this step is the last that is asked for, once the devices have done it."""
        if self._tracing and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if not self._tracing:
            return
        self._tracing = False
        jax.profiler.stop_trace()
        first, last = self._steps or (0, 0)
        log.info(
            "a trace of steps %d to %d is in %s; tensorboard with its profile plugin shows it",
            first,
            last,
            self._folder,
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
