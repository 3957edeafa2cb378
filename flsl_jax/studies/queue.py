"""Runs of a study one after another, or several at a time, each in a process of its own, so that one cannot harm another."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from flsl_jax.studies.grid import Cell

LOG_FILE = "log.txt"
_POLL_SECONDS = 0.1


@runtime_checkable
class Stop(Protocol):
    """Says why the queue should end; None: it should not."""

    reason: str | None


def run_queue(
    cells: Sequence[Cell],
    *,
    slots: Sequence[str | None],
    command: Callable[[Cell], Sequence[str]],
    stop: Stop,
    on_start: Callable[[Cell], None],
    on_end: Callable[[Cell, int], None],
) -> dict[str, int]:
    """Runs a command for each cell, one in each slot at a time; its output goes to `log.txt` in the cell's folder.

    Args:
        cells: in the order in which they start.
        slots: for each process at a time the GPU that it may see, or None for all that there is.
        command: of a cell.
        stop: once it has a reason, nothing more is started, and what runs gets SIGTERM, which saves.
        on_start, on_end: are told of each process, the latter with its exit code.

    Returns:
        The exit codes by the cells' names, without those that were not started.
    """
    waiting, free = deque(cells), list(slots)
    running: list[tuple[Cell, subprocess.Popen[bytes], str | None]] = []
    codes: dict[str, int] = {}
    told = False
    try:
        while running or (waiting and stop.reason is None):
            while waiting and free and stop.reason is None:
                cell, slot = waiting.popleft(), free.pop(0)
                on_start(cell)
                running.append((cell, _start(command(cell), cell.folder, gpu=slot), slot))
            if stop.reason is not None and not told:
                told = True
                for _, process, _ in running:
                    process.terminate()
            for entry in list(running):
                cell, process, slot = entry
                code = process.poll()
                if code is not None:
                    running.remove(entry)
                    free.append(slot)
                    codes[cell.name] = code
                    on_end(cell, code)
            time.sleep(_POLL_SECONDS)
    finally:
        for _, process, _ in running:  # an error or a second Ctrl-C
            process.kill()
            process.wait()
    return codes


def last_line(folder: Path) -> str:
    """The last line that a run has written to its log."""
    lines = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def _start(command: Sequence[str], folder: Path, *, gpu: str | None) -> subprocess.Popen[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    environment: Mapping[str, str] = os.environ | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    with (folder / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )
