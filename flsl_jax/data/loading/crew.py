"""Worker processes that make numbered items, in order; one that ends or falls silent is replaced and its items made again."""

import contextlib
import dataclasses
import faulthandler
import logging
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from flsl_jax.data.loading.workers import start_worker
from flsl_jax.errors import DataError

log = logging.getLogger(__name__)

# Items that a worker makes ahead of the one that is asked for, with that one.
_AHEAD = 5
# So many times in a row a worker may fail at the same item.
_MAX_FAILURES = 3
_POLL_SECONDS = 0.5
_STACK_SECONDS = 3.0
_STACK_BYTES = 1 << 20
# What a process may take at least to start, in which it imports its modules.
_START_SECONDS = 120.0


# Makes an item from its number, and tells a function which record it reads, before it does.
Make = Callable[[int, Callable[[int], None]], Any]


class Cancelled(Exception):
    """Another thread wants no more items."""


@dataclasses.dataclass(eq=False)
class _Worker:
    """A running process, our end of its pipe, the thread that reads from it, the open file of its stacks, and what it owes."""

    number: int
    process: Any
    connection: Connection
    thread: threading.Thread
    stacks: int
    owed: set[int]

    def ask(self, index: int) -> None:
        self.owed.add(index)
        with contextlib.suppress(OSError):  # a process that has ended is noticed when its items are missing
            self.connection.send(index)


class Crew(Iterator[Any]):
    """The items `start` … `stop` - 1, in order, made by processes. Worker w of W makes start + w, start + w + W, and so on.

    Since an item depends on its number alone, a worker that was killed is started again and makes what it owed once more. So is
    one that reads nothing new for `patience` seconds while it is waited for; the stacks of its threads are logged.

    Args:
        make: what a worker calls for an item; pickled.
        start, stop: the numbers of the items.
        workers: how many processes; at least 1.
        patience: in seconds; 0 waits for ever.
        name_record: what messages call a record.
        lost: told the number of a worker that was lost and the items of it that were received and not yet handed out, before
            another one starts.
    """

    def __init__(
        self,
        make: Make,
        *,
        start: int,
        stop: int,
        workers: int,
        patience: float,
        name_record: Callable[[int], str],
        lost: Callable[[int, Sequence[Any]], None],
    ) -> None:
        self._make, self._patience, self._name_record, self._lost = cloudpickle.dumps(make), patience, name_record, lost
        self._start, self._next, self._end = start, start, stop
        self._context = multiprocessing.get_context("spawn")
        # For each worker: 0 until it has started, then 1 and how many records it has begun to read; and which one it is at.
        self._places: Any = self._context.RawArray("q", 2 * workers)
        self._arrived: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._ready: dict[int, Any] = {}
        self._failures = 0
        self._cancelled = threading.Event()
        self._workers: list[_Worker] = []
        # multiprocessing's own end at the interpreter's exit would wait for ever for processes that ignore SIGTERM.
        util.Finalize(self, _stop, args=(self._workers,), exitpriority=100)
        for number in range(workers):
            first = start + number
            self._workers.append(self._hire(number, range(first, min(first + _AHEAD * workers, stop), workers)))

    def __next__(self) -> Any:
        """The next item.

        Raises:
            StopIteration: there is none, or the crew was closed.
            Cancelled: `cancel` was called.
            DataError: a worker has failed several times at the same item.
            Exception: what `make` has raised.
        """
        index, crew = self._next, len(self._workers)
        if index >= self._end or not crew:
            raise StopIteration
        number = (index - self._start) % crew
        item = self._wait(index, number)
        if isinstance(item, _Raised):
            raise item.error
        self._next, self._failures = index + 1, 0
        later = index + _AHEAD * crew
        if later < self._end:
            self._workers[number].ask(later)
        return item

    @property
    def process_ids(self) -> list[int]:
        """Of the workers."""
        return [worker.process.pid for worker in self._workers]

    def cancel(self) -> None:
        """Ends the wait of another thread in `next`, and all later ones."""
        self._cancelled.set()

    def close(self) -> None:
        """Stops the workers; no further items follow."""
        _stop(self._workers)

    def _wait(self, index: int, number: int) -> Any:
        seen, since = -1, time.monotonic()
        while index not in self._ready:
            if self._cancelled.is_set():
                raise Cancelled
            worker = self._workers[number]
            ended = worker.process.exitcode
            with contextlib.suppress(queue.Empty):
                arrived, item = self._arrived.get(timeout=_POLL_SECONDS)
                self._ready[arrived] = item
                continue
            if ended is not None and not worker.thread.is_alive() and self._arrived.empty():
                how = f"signal {signal.Signals(-ended).name}" if ended < 0 else f"exit code {ended}"
                self._replace(worker, f"has ended ({how})", index)
            begun = self._places[2 * number]
            if begun != seen:
                seen, since = begun, time.monotonic()
            elif self._patience and time.monotonic() - since > max(self._patience, 0.0 if begun else _START_SECONDS):
                log.error("stacks of worker %d:\n%s", number, _stacks(worker))
                self._replace(worker, f"has read nothing for {self._patience:g} s", index)
                seen = -1
        return self._ready.pop(index)

    def _replace(self, worker: _Worker, problem: str, index: int) -> None:
        """Starts another worker in the place of one, for all that it owes.

        Raises:
            DataError: this has happened several times at the same item.
        """
        number = worker.number
        begun, record = self._places[2 * number : 2 * number + 2]
        at = f" at {self._name_record(record)}" if begun > 1 else " before its first image"
        said = f"worker {number} (process {worker.process.pid}) {problem}{at}"
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            raise DataError(
                f"{said}, for the {_MAX_FAILURES}rd time in a row; remove that image if it alone does this, else look at the "
                "memory (config.compute.workers) and the disk; the same command goes on"
            )
        log.warning("%s; it is started again and its images are read again", said)
        _end(worker)
        self._drain()
        owed = sorted(worker.owed - self._ready.keys() - set(range(self._start, self._next)))
        crew = len(self._workers)
        mine = [item for key, item in self._ready.items() if (key - self._start) % crew == number]
        self._lost(number, mine)
        self._places[2 * number] = 0
        self._workers[number] = self._hire(number, owed)

    def _drain(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                arrived, item = self._arrived.get_nowait()
                self._ready[arrived] = item

    def _hire(self, number: int, owed: Sequence[int]) -> _Worker:
        stacks, path = tempfile.mkstemp(prefix="flsl_stacks_")  # the worker removes the name once it has the file open
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work,
            args=(self._make, theirs, self._places, number, path),
            name=f"images-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        thread = threading.Thread(target=_receive, args=(ours, self._arrived), name=f"images-{number}", daemon=True)
        thread.start()
        worker = _Worker(number=number, process=process, connection=ours, thread=thread, stacks=stacks, owed=set())
        for index in owed:
            worker.ask(index)
        return worker


@dataclasses.dataclass(frozen=True)
class _Raised:
    """What `make` has raised in a worker."""

    error: Exception


def _work(make: bytes, connection: Connection, places: Any, number: int, stacks: str) -> None:
    """A worker process: makes what it is asked for until nobody asks any more."""
    start_worker()
    with open(stacks, "w") as file:
        os.unlink(stacks)
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        function: Make = cloudpickle.loads(make)

        def note(record: int) -> None:
            places[2 * number + 1] = record
            places[2 * number] += 1

        places[2 * number] = 1
        with contextlib.suppress(EOFError, OSError):  # the parent has closed its end
            while True:
                index = connection.recv()
                try:
                    item = function(index, note)
                except Exception as error:
                    item = _Raised(_sendable(error))
                connection.send((index, item))


def _sendable(error: Exception) -> Exception:
    """The error itself, if it can be pickled, or one with the same words."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
        return error
    except Exception:  # whatever pickling raises
        return RuntimeError(f"{type(error).__name__}: {error}")


def _receive(connection: Connection, arrived: "queue.SimpleQueue[tuple[int, Any]]") -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            arrived.put(connection.recv())


def _stacks(worker: _Worker) -> str:
    """The stacks of all threads of a worker, or that it does not answer and how the system lists it."""
    with contextlib.suppress(OSError):
        os.kill(worker.process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + _STACK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)
            if os.fstat(worker.stacks).st_size:
                time.sleep(0.05)
                return os.pread(worker.stacks, _STACK_BYTES, 0).decode(errors="replace").rstrip()
    return f"none: the process does not answer (state {_state(worker.process.pid)})"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text().split("State:", 1)[1].splitlines()[0].strip()
    except (OSError, IndexError):
        return "unknown"


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join(timeout=5)
    worker.thread.join(timeout=5)
    if not worker.thread.is_alive():  # else the process hangs in the system, and the thread ends with it
        worker.connection.close()
    os.close(worker.stacks)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    while workers:
        _end(workers.pop())
