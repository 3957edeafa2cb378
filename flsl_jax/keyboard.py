"""Signals to a command, Ctrl-C above all: while libraries are imported it ends the process, because some would swallow it."""

import os
import signal
import threading
from types import FrameType
from typing import NoReturn

_running = False


def watch() -> None:
    """From now on Ctrl-C ends the process quietly during imports, and anywhere before `running`. It stays ignored if it was."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)


def running() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, but for imports."""
    global _running
    _running = True


def stop_early(code: int) -> None:
    """From now on SIGTERM, SIGUSR1 and SIGHUP end the process at once with a code that says so, where nothing needs saving.

    Signals that are ignored stay so. Only the main thread can do it; in another one, nothing changes.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        os.write(2, f"stopped by {signal.Signals(number).name}; the same command goes on\n".encode())
        os._exit(code)

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        if threading.current_thread() is threading.main_thread() and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, on_signal)


def end_by_interrupt() -> NoReturn:
    """Ends the process by the signal, so that shells and make know; threads that still compute are not waited for."""
    os.write(2, b"interrupted\n")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    os._exit(130)  # where the signal is blocked: as shells have it of a program that SIGINT ended


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    place = frame
    while place is not None and _running:
        if place.f_code.co_filename.startswith("<frozen importlib"):
            end_by_interrupt()
        place = place.f_back
    if not _running:
        end_by_interrupt()
    raise KeyboardInterrupt
