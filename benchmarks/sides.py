"""A benchmark's sides in processes of their own, so that none shares an allocator, threads or a GPU's memory pool."""

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """A process that holds an object; `facts` is the object's attribute of that name."""

    name: str
    facts: Any
    process: Any
    connection: Connection

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the object, run in its process.

        Raises:
            RuntimeError: the method raised an error there; has its message.
        """
        self.connection.send((method, arguments))
        return _received(self.connection, name=self.name)

    def close(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.join()


class Opening:
    """A side that is starting. The object is made by `factory(*arguments)` in its process."""

    def __init__(self, name: str, factory: Callable[..., Any], *arguments: Any) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self, *, deadline: float | None = None) -> Side:
        """Waits for it.

        Args:
            deadline: a time of `time.monotonic()`.

        Raises:
            RuntimeError: the object could not be made, or not in time; its process is ended.
        """
        try:
            if deadline is not None and not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise RuntimeError(f"{self.name}: not ready in time")
            facts = _received(self._connection, name=self.name)
        except RuntimeError:
            self._process.terminate()
            raise
        return Side(name=self.name, facts=facts, process=self._process, connection=self._connection)


def _received(connection: Connection, *, name: str) -> Any:
    try:
        succeeded, value = connection.recv()
    except EOFError:
        succeeded, value = False, "its process ended"
    if not succeeded:
        raise RuntimeError(f"{name}: {value}")
    return value


def _serve(connection: Connection, factory: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Makes the object, then answers calls until the process is ended."""
    try:
        held = factory(*arguments)
        connection.send((True, held.facts))
        while True:
            method, values = connection.recv()
            connection.send((True, getattr(held, method)(*values)))
    except EOFError:
        return
    except Exception as error:  # whatever it is, the process that asked reports it and goes on with the other sides
        connection.send((False, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"))
