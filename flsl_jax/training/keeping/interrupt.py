"""When a run should save and stop early: a signal, or the wall clock; agreed by all processes."""

import contextlib
import logging
import os
import signal
import threading
import time
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

# With several processes, agreeing on a stop takes a small collective, so it is done only once in this many steps.
_AGREE_EVERY = 10


# What schedulers send before they kill, a terminal that closes, and Ctrl-C.
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


class Interrupt:
    """Context in which SIGTERM, SIGUSR1, SIGHUP and SIGINT ask for a stop instead of killing; a second SIGINT kills.

    Other signals while a stop is under way change nothing. SIGHUP stays ignored where it was, as under nohup.

    Only the main thread of a Python process can take signals; in another thread only the wall clock asks for a stop.

    Args:
        max_hours: wall-clock limit from when the context is entered; 0 for none.
    """

    def __init__(self, *, max_hours: float = 0.0) -> None:
        self.reason: str | None = None
        self._deadline = time.monotonic() + 3600 * max_hours if max_hours > 0 else None
        self._from_keyboard = False
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "Interrupt":
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in _SIGNALS if in_main_thread else ():
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._from_keyboard:
                raise KeyboardInterrupt
            self._from_keyboard = True
        if self.reason is not None:
            return
        self.reason = signal.Signals(number).name
        if log.isEnabledFor(logging.INFO):  # logging itself may be at work when the signal comes
            with contextlib.suppress(OSError):
                os.write(2, f"{self.reason}: stops and saves after this step; a second Ctrl-C kills\n".encode())

    def requested_alone(self) -> bool:
        """Whether to stop at once, while this process waits for images; several processes can agree only after a step."""
        return jax.process_count() == 1 and self.requested(0)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process. Call it after each step."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = self.reason or "the wall-clock limit (config.checkpoint.max_hours)"
        if jax.process_count() == 1:
            return self.reason is not None
        if step % _AGREE_EVERY:
            return False
        asked = multihost_utils.process_allgather(np.asarray(self.reason is not None))
        if asked.any():
            self.reason = self.reason or "another process's request"
        return bool(asked.any())
