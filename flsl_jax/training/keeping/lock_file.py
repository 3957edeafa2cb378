"""One process trains in a workdir: a file there names it and shows that it lives; what a dead one left is taken over.

This module knows no JAX: pretraining and fine-tuning, whose processes agree in other ways, share it.
"""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flsl_jax.errors import UserError, reason

log = logging.getLogger(__name__)

LOCK_FILE = "run.lock"
# Seconds between two signs of life, and without one until a process of another machine counts as dead.
BEAT, DEAD_AFTER = 10.0, 60.0

# Tokens of the locks that threads of this process hold.
_held: set[str] = set()


class Lock:
    """A held lock. `check` says whether it still is."""

    def __init__(self, path: Path, token: str) -> None:
        self._path, self._token = path, token
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="workdir lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Makes sure that no other process has taken over, as it does when this one was stopped for a long time.

        Raises:
            UserError: another one has.
        """
        owner = _read(self._path)
        if owner is not None and owner.get("token") != self._token:
            raise UserError(
                f"{self._path.parent} was taken over by {_name(owner)}, after this process had shown no sign of life for "
                f"{DEAD_AFTER:.0f} s; it ends without writing"
            )

    def release(self) -> None:
        """Ends the signs of life, and deletes the file if it is this lock's."""
        self._ended.set()
        self._thread.join()
        _held.discard(self._token)
        owner = _read(self._path)
        if owner is not None and owner.get("token") == self._token:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            owner = _read(self._path)
            if owner is not None and owner.get("token") == self._token:
                with contextlib.suppress(OSError):  # the folder may be gone for a while
                    os.utime(self._path)


@contextlib.contextmanager
def held(workdir: Path, *, is_first: bool, agreed: Callable[[bool], int]) -> Iterator[Lock | None]:
    """Context in which this run alone trains in a workdir; the folder is made. All processes of the run enter it.

    Args:
        workdir: of the run.
        is_first: whether this is the process that holds the lock; the others have None.
        agreed: tells all processes what the first one gives it; all call it at once.

    Raises:
        UserError: another run uses the workdir, or it cannot be written; on all processes.
    """
    lock, problem = None, ""
    if is_first:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = _acquire(workdir / LOCK_FILE)
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{workdir} cannot be written ({reason(error)}); make room, or name a --workdir that can"
    if agreed(bool(problem)):
        raise UserError(problem or f"the first process cannot use {workdir}")
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def check_held(lock: Lock | None, *, agreed: Callable[[bool], int]) -> None:
    """`Lock.check` by the first process, which has the lock; raises on all of them. All processes must call it.

    Args:
        lock: what `held` gave.
        agreed: as `held` takes it.
    """
    problem = ""
    if lock is not None:
        try:
            lock.check()
        except UserError as error:
            problem = str(error)
    if agreed(bool(problem)):
        raise UserError(problem or "the workdir was taken over by another process, as the first process says")


def user_of(workdir: Path) -> str | None:
    """Who trains in a workdir, by its lock, which is only read: None if nobody, or a process of this machine that is gone.

    Whether a process of another machine lives is not waited for.
    """
    path = workdir / LOCK_FILE
    owner = _read(path)
    if owner is None or (owner.get("host") == socket.gethostname() and not _lives(owner, path)):
        return None
    return _name(owner)


def _acquire(path: Path) -> Lock:
    token = uuid.uuid4().hex
    _held.add(token)  # before the file says so, or another thread would take the lock for a dead one
    try:
        while not _create(path, token):
            owner = _read(path)
            if owner is None:  # released in between
                continue
            if _lives(owner, path):
                raise UserError(
                    f"{path.parent} is in use by {_name(owner)}; end that, wait for it, or take another --workdir (if it is "
                    f"gone for certain, delete {path})"
                )
            if _replace_dead(path, owner, token):
                log.warning("%s was left locked by %s, which is gone; taken over", path.parent, _name(owner))
                break
    except BaseException:
        _held.discard(token)
        raise
    return Lock(path, token)


def _create(path: Path, token: str) -> bool:
    """Writes the lock; False if there is one. It appears with its content, so that nobody reads half of it."""
    content = {"host": socket.gethostname(), "process": os.getpid(), "born": _birth(os.getpid()), "token": token}
    partial = path.with_name(f".{path.name}.{token}")
    try:
        partial.write_text(json.dumps(content) + "\n")
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return True


def _lives(owner: dict[str, Any], path: Path) -> bool:
    """Whether the process that a lock names lives: looked up on this machine, else by its signs of life."""
    if owner.get("host") == socket.gethostname():
        process = owner.get("process")
        if process == os.getpid():  # also where every container's first process has one number
            return owner.get("token") in _held
        return isinstance(process, int) and _exists(process) and owner.get("born") == _birth(process)
    return _beats(path)


def _beats(path: Path) -> bool:
    """Watches for a sign of life of a process on another machine, until it would be overdue; clocks need not agree."""
    try:
        before = path.stat().st_mtime_ns
        log.info("waiting up to %.0f s for a sign of life of the process that locked %s", DEAD_AFTER, path.parent)
        end = time.monotonic() + DEAD_AFTER
        while time.monotonic() < end:
            time.sleep(min(1.0, DEAD_AFTER / 10))
            if path.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        pass
    return False


def _replace_dead(path: Path, owner: dict[str, Any], token: str) -> bool:
    """Puts a lock in the place of a dead one; False if another process was quicker, whose lock may be there now."""
    with _one_at_a_time(path.parent):
        current = _read(path)
        if current is None or current.get("token") != owner.get("token"):
            return False
        path.unlink(missing_ok=True)
        return _create(path, token)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Context that one thread of all processes on this machine is in at a time; on others too, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without such locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _birth(process: int) -> str:
    """When a process began, so that another one with its number is not taken for it; "" where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[19]}"
    except (OSError, IndexError):
        return ""


def _read(path: Path) -> dict[str, Any] | None:
    """What a lock says; an empty object if it is damaged, None if there is none."""
    try:
        values = json.loads(path.read_text())
    except OSError:
        return None
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _name(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', 'unknown')} on {owner.get('host', 'an unknown machine')}"
