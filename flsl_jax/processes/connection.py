"""Context in which the processes of a run are connected."""

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import jax

from flsl_jax.config import Config
from flsl_jax.errors import STOPPED_EARLY, UserError, first_line, one_line
from flsl_jax.processes.hub import Hub
from flsl_jax.processes.introduction import introduction
from flsl_jax.processes.member import Member
from flsl_jax.processes.place import Place, find_place
from flsl_jax.processes.words import LOST_AFTER

# Seconds. After an error that may come of a lost process: until it is known whether one is. After another process's error:
# for this one's own, which may say more.
_LOSS_KNOWN, _OWN_WORDS = 10.0, 15.0
# Longest path of the folder of a socket, whose own may have 107 bytes.
_LONGEST = 100


@contextlib.contextmanager
def connected(config: Config) -> Iterator[None]:
    """Context in which this process and the others of `config.parallel` are connected; enter it before anything else of JAX.

    If another process fails or is lost meanwhile, this one ends: with one line and the exit code of the other, or 75 if that
    was killed. Without `config.parallel.distributed` it does nothing.

    Raises:
        UserError: the processes did not find each other in time, or have other versions or configs; says who.
    """
    if not config.parallel.distributed:
        yield
        return
    connection = _Connection(find_place(config.parallel))
    connection.open(config)
    try:
        yield
    except BaseException as error:
        connection.close_after(error)
        raise
    connection.close()


class _Connection:
    """A thread that keeps this process's side of the connection, and ends the process where it must."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._folder = Path(tempfile.mkdtemp(prefix="flsl_run_"))
        if len(str(self._folder)) > _LONGEST:
            self._folder.rmdir()
            self._folder = Path(tempfile.mkdtemp(prefix="flsl_run_", dir="/tmp"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        self._leaving = False
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="processes", daemon=True).start()

    def open(self, config: Config) -> None:
        """Meets the others, then connects JAX through the sockets of this process."""
        service = self._folder / "jax"
        side = Hub if self._place.number == 0 else Member
        self._side = side(self._place, introduction(config), service=service, on_end=self._end)
        timeout = config.parallel.timeout_seconds
        # Proxies have no part in it: JAX connects to a socket of this process.
        jax.config.update("jax_check_proxy_envs", False)
        self._run(self._side.meet(timeout))
        handler = signal.getsignal(signal.SIGTERM)
        try:
            jax.distributed.initialize(
                coordinator_address=f"unix:{service}",
                coordinator_bind_address=f"unix:{service}",
                num_processes=self._place.count,
                process_id=self._place.number,
                initialization_timeout=timeout,
                heartbeat_timeout_seconds=3 * LOST_AFTER,
            )
        except (RuntimeError, ValueError) as error:
            problem = UserError(f"config.parallel: JAX could not connect the processes ({first_line(error)})")
            self.close_after(problem)
            raise problem from error
        if handler is not None and threading.current_thread() is threading.main_thread():
            # JAX has put one of its own in its place, which would swallow the signal.
            signal.signal(signal.SIGTERM, handler)

    def close(self) -> None:
        """Says that this process is done. The connection stays until it ends, because JAX takes its leave over it."""
        self._run(self._side.tell_end(0, ""))

    def close_after(self, error: BaseException) -> None:
        """Says that this process fails. At its end, JAX must not wait for the others to take their leave."""
        if isinstance(error, UserError):
            code, why = 2, str(error)
        elif isinstance(error, KeyboardInterrupt):
            code, why = 130, "interrupted"
        else:
            time.sleep(_LOSS_KNOWN)  # the thread ends the process if the reason is that another one is lost
            code, why = 1, f"{type(error).__name__}: {first_line(error)}"
        self._leaving = True
        self._run(self._side.tell_end(code, one_line(why)))
        shutil.rmtree(self._folder, ignore_errors=True)
        atexit.register(_exit, code)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does it in the thread and waits for it; the waiting can be interrupted."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self, code: int, why: str) -> None:
        if code != STOPPED_EARLY:
            await asyncio.sleep(_OWN_WORDS)
        if not self._leaving:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.write(2, f"error: {one_line(why)}\n".encode())
            os._exit(code)


def _exit(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
