"""A copy of a workdir in an object store (`gs://`, `s3://`, whatever fsspec opens), for machines whose disks go with them.

The first process copies, in a thread of its own: after each checkpoint, and at the end. In the copy, as on the disk, a
checkpoint is complete when it has its commit mark, which is written last and deleted first. A run that starts where the copy
has a newer checkpoint than the workdir fetches the copy before anything else, and goes on from it.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from flsl_jax import parallel
from flsl_jax.checkpoints.folder import list_steps
from flsl_jax.checkpoints.inspection import MARK
from flsl_jax.errors import UserError, reason, require_packages
from flsl_jax.training.keeping.lock_file import LOCK_FILE, held

log = logging.getLogger(__name__)

# Seconds between tries while the store cannot be reached, doubled up to the second number; and how long the end waits.
FIRST_PAUSE, LONGEST_PAUSE, LAST_WAIT = 10.0, 300.0, 600.0
# In the copy: the run that keeps it.
_OWNER = "mirror.json"
_CHECKPOINTS = "checkpoints"
_INSTALL = "pip install gcsfs for gs://, s3fs for s3://"


class Mirror:
    """Keeps the copy up to date. `update` asks for it and returns at once; a failure is logged and tried again."""

    def __init__(self, workdir: Path, store: "_Store") -> None:
        self._workdir, self._store = workdir, store
        self._token = uuid.uuid4().hex
        self._sent: dict[str, tuple[int, int]] = {}
        self._asked, self._closing = threading.Event(), threading.Event()
        self._owned = self._failing = False
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def update(self) -> None:
        """Asks for a copy of what is in the workdir now."""
        self._asked.set()

    def close(self) -> None:
        """Brings the copy up to date if it was ever asked for, and waits for that; at most ten minutes."""
        if self._sent or self._asked.is_set():
            self._asked.set()
        self._closing.set()
        self._thread.join(LAST_WAIT)
        if self._thread.is_alive():
            log.warning("%s is not up to date: copying takes longer than %.0f s", self._store.url, LAST_WAIT)

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while True:
            while not self._asked.wait(0.2):
                if self._closing.is_set():
                    return
            self._asked.clear()
            try:
                if not self._is_ours():
                    return
                self._copy()
            except Exception as error:  # the file layer raises what the store's library raises
                self._failing = True
                log.warning("%s could not be brought up to date (%s); the run goes on", self._store.url, reason(error))
                if self._closing.wait(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE)
                self._asked.set()
            else:
                if self._failing:
                    log.warning("%s is up to date again", self._store.url)
                self._failing, pause = False, FIRST_PAUSE

    def _is_ours(self) -> bool:
        """Takes the copy for this run the first time: when it saves, the workdir is its own."""
        if not self._owned:
            us = {"host": socket.gethostname(), "process": os.getpid(), "token": self._token}
            self._store.write(_OWNER, json.dumps(us).encode())
            self._owned = True
        owner = json.loads(self._store.read(_OWNER) or b"{}")
        if owner.get("token") == self._token:
            return True
        log.warning(
            "%s is kept by another run now (process %s on %s); this one no longer copies to it",
            self._store.url,
            owner.get("process", "unknown"),
            owner.get("host", "an unknown machine"),
        )
        return False

    def _copy(self) -> None:
        """Checkpoints first: a run that goes on drops metrics of later steps, but those that are missing are lost."""
        steps = list_steps(self._workdir / _CHECKPOINTS)
        there = self._store.sizes()
        for step in steps:
            self._copy_checkpoint(step, there)
        for path in sorted(self._workdir.rglob("*")):
            name = path.relative_to(self._workdir).as_posix()
            if path.is_file() and not _is_left_out(name):
                self._copy_file(path, name)
        gone = set(_steps_in(there)) - set(steps) if steps else ()
        for step in gone:
            self._delete_checkpoint(step, there)

    def _copy_checkpoint(self, step: int, there: dict[str, int]) -> None:
        """Leaves out one that training deletes meanwhile."""
        folder, name = self._workdir / _CHECKPOINTS / str(step), f"{_CHECKPOINTS}/{step}"
        try:
            mark = (folder / MARK).read_bytes()
            if f"{name}/{MARK}" in there and self._store.read(f"{name}/{MARK}") == mark:
                return
            self._delete_checkpoint(step, there)
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path != folder / MARK:
                    self._store.put(path, f"{name}/{path.relative_to(folder).as_posix()}")
        except FileNotFoundError:
            return
        self._store.write(f"{name}/{MARK}", mark)

    def _copy_file(self, path: Path, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            state = (found.st_size, found.st_mtime_ns)
            if self._sent.get(name) != state:
                self._store.put(path, name)
                self._sent[name] = state

    def _delete_checkpoint(self, step: int, there: dict[str, int]) -> None:
        names = [name for name in there if name.startswith(f"{_CHECKPOINTS}/{step}/")]
        for name in sorted(names, key=lambda name: not name.endswith(f"/{step}/{MARK}")):
            self._store.delete(name)


class _Store:
    """The files below a URL, by their names from there."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._files, self._root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        # Of a disk of this machine, which it may be too.
        self.folder = Path(self._root) if "file" in self._files.protocol else None

    def sizes(self) -> dict[str, int]:
        """The bytes of every file."""
        self._files.invalidate_cache()
        found: dict[str, Any] = self._files.find(self._root, detail=True)
        root = self._root.strip("/")
        return {path.strip("/").removeprefix(f"{root}/"): int(info["size"]) for path, info in found.items()}

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None if there is none."""
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        self._make_room(name)
        self._files.pipe_file(f"{self._root}/{name}", content)

    def put(self, path: Path, name: str) -> None:
        self._make_room(name)
        self._files.put_file(str(path), f"{self._root}/{name}")

    def _make_room(self, name: str) -> None:
        """On a disk a file needs a folder. In a store it needs none, and asking for one could make a bucket of a wrong name."""
        if self.folder is not None:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        self._files.get_file(f"{self._root}/{name}", str(partial))
        partial.replace(path)

    def probe(self) -> None:
        """Writes a file and deletes it."""
        name = f".probe{uuid.uuid4().hex}"
        self.write(name, b"")
        self.delete(name)

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")


@contextlib.contextmanager
def mirrored(url: str, workdir: Path) -> Iterator[Mirror | None]:
    """Context of a run whose workdir has a copy, which is fetched first where it has a newer checkpoint than the workdir.

    Args:
        url: `config.checkpoint.mirror`; "": there is no copy.
        workdir: of the run.

    Yields:
        The mirror on the first process, None on others and without a copy. All processes must enter.

    Raises:
        UserError: the store cannot be read and written, or not be opened; on every process.
    """
    mirror, problem = None, ""
    if url and jax.process_index() == 0:
        try:
            mirror = _open(url, workdir)
        except UserError as error:
            problem = str(error)
    if url and parallel.as_first(bool(problem)):
        raise UserError(problem or f"the first process cannot use {url}")
    try:
        yield mirror
    finally:
        if mirror is not None:
            mirror.close()


def _open(url: str, workdir: Path) -> Mirror:
    require_packages("fsspec", install=_INSTALL)
    try:
        store = _Store(url)
        if store.folder is not None and store.folder.resolve().is_relative_to(workdir.resolve()):
            raise UserError(f"config.checkpoint.mirror={url} lies in the workdir {workdir} itself; name another place")
        store.probe()
        _fetch_newer(store, workdir)
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{url} needs a package that is not installed ({reason(error)}); {_INSTALL}") from error
    except Exception as error:  # the file layer raises what the store's library raises
        raise UserError(
            f"config.checkpoint.mirror={url} cannot be used ({reason(error)}); check the name, the rights and the network"
        ) from error
    return Mirror(workdir, store)


def _fetch_newer(store: _Store, workdir: Path) -> None:
    """Brings what the copy has into a workdir whose newest checkpoint is older, or that has none: complete checkpoints, each
    under its name when it is whole, and the other files."""
    there, here = store.sizes(), list_steps(workdir / _CHECKPOINTS)
    steps = [step for step in _steps_in(there) if f"{_CHECKPOINTS}/{step}/{MARK}" in there]
    if not steps or (here and here[0] >= steps[-1]):
        return
    with held(workdir, is_first=True, agreed=int):
        log.info("fetching the run from %s", store.url)
        begin = time.perf_counter()
        missing = [step for step in steps if step not in here]
        for step in missing:
            partial, prefix = workdir / _CHECKPOINTS / f"{step}.fetching", f"{_CHECKPOINTS}/{step}/"
            shutil.rmtree(partial, ignore_errors=True)
            for name in there:
                if name.startswith(prefix):
                    store.get(name, partial / name.removeprefix(prefix))
            partial.rename(partial.with_suffix(""))
        for name in there:
            if not name.startswith(f"{_CHECKPOINTS}/") and name != _OWNER:
                store.get(name, workdir / name)
    took = time.perf_counter() - begin
    log.info("fetched the checkpoints of steps %s in %.0f s", ", ".join(map(str, missing)), took)


def _steps_in(names: dict[str, int]) -> list[int]:
    """The steps of which there are files, the oldest first."""
    found = {name.split("/")[1] for name in names if name.startswith(f"{_CHECKPOINTS}/")}
    return sorted(int(step) for step in found if step.isdecimal())


def _is_left_out(name: str) -> bool:
    top = name.split("/", 1)[0]
    return top in (_CHECKPOINTS, f"{_CHECKPOINTS}_damaged", LOCK_FILE) or name.rsplit("/", 1)[-1].startswith(".")
