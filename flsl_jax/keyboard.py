"""Ctrl-C in a command: while libraries are imported it ends the process at once, because some of them would swallow it."""

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
