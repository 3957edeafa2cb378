"""A run of real processes, and the faults that it can meet; `benchmarks.chaos` is the schedule of them."""

import dataclasses
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flsl_jax.checkpoints.folder import list_steps
from flsl_jax.errors import STOPPED_EARLY
from flsl_jax.workdir import read_metrics

# Seconds: how long anything is waited for, and after which a worker counts as hanging.
_PATIENCE, _SILENCE = 600.0, 20.0


class Surprise(Exception):
    """Something that a run did and should not have; the message says what, with its last lines."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """On what a run is started: processes, devices of each, and how many devices share the parameters."""

    processes: int
    devices: int = 1
    fsdp: int = 1

    def __str__(self) -> str:
        return f"{self.processes} × {self.devices}, fsdp {self.fsdp}"


class Run:
    """The processes of one start of a run, as a context that leaves none of them behind.

    Args:
        workdir: of the run; the log of process p is beside it, `NAME_p.log`.
        flags: more flags of the command.
        steps: at which the run ends.
        topology: on what it runs.
    """

    def __init__(self, workdir: Path, *flags: str, steps: int, topology: Topology) -> None:
        self.workdir, self.topology = workdir, topology
        self._begin = time.time()
        self._logs = [workdir.with_name(f"{workdir.name}_{number}.log") for number in range(topology.processes)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes = []
        for number, path in enumerate(self._logs):
            together = (
                "--config.parallel.distributed=True",
                f"--config.parallel.coordinator=127.0.0.1:{port}",
                f"--config.parallel.num_processes={topology.processes}",
                f"--config.parallel.process_id={number}",
            )
            with path.open("wb") as log:
                self.processes.append(
                    subprocess.Popen(
                        [
                            *(sys.executable, "-m", "flsl_jax.main", "--config=tests/tiny.py", f"--workdir={workdir}"),
                            *("--config.batch_size=16", "--config.data.count=64", "--config.epochs=1000"),
                            *(f"--config.stop_at_step={steps}", f"--config.parallel.fsdp={topology.fsdp}"),
                            *(together if topology.processes > 1 else ()),
                            *flags,
                        ],
                        cwd=Path(__file__).parents[1],
                        env={"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
                        | os.environ
                        | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={topology.devices}"}
                        | {"JAX_PLATFORMS": "cpu"},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *reason: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def has_said(self, words: str) -> bool:
        """Whether the words are in the output of any process."""
        return any(words in path.read_text(errors="replace") for path in self._logs)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits.

        Raises:
            Surprise: a process ended meanwhile, or it takes too long.
        """
        end = time.monotonic() + _PATIENCE
        while not condition():
            if any(process.poll() is not None for process in self.processes):
                raise Surprise(f"it ended before {what}; {self._last_words()}")
            if time.monotonic() > end:
                raise Surprise(f"it did not come to {what} in {_PATIENCE:.0f} s; {self._last_words()}")
            time.sleep(0.01)

    def wait_for_checkpoints(self, count: int) -> None:
        """Waits until so many checkpoints are complete."""
        self.wait_until(lambda: len(list_steps(self.workdir / "checkpoints")) >= count, f"{count} checkpoints")

    def wait_for_progress(self) -> None:
        """Waits until this start of the run has written a checkpoint, and there are two."""
        self.wait_for_checkpoints(2)
        folder = self.workdir / "checkpoints"
        self.wait_until(
            lambda: any(_written(folder / str(step)) > self._begin for step in list_steps(folder)), "a checkpoint"
        )

    def wait_for_steps(self, count: int) -> None:
        """Waits for so many more lines of metrics."""
        last = self.last_step()
        self.wait_until(lambda: self.last_step() >= last + count, f"step {last + count}")

    def last_step(self) -> int:
        """The step of the last line of metrics."""
        lines = read_metrics(self.workdir / "metrics.jsonl")
        return lines[-1]["step"] if lines else 0

    def expect_end(self, codes: set[int]) -> list[int]:
        """Waits for all processes.

        Raises:
            Surprise: one has another exit code, or does not end.
        """
        try:
            found = [process.wait(timeout=_PATIENCE) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise Surprise(f"it did not end in {_PATIENCE:.0f} s; {self._last_words()}") from None
        if set(found) - codes:
            raise Surprise(f"exit codes {found}, expected of {sorted(codes)}; {self._last_words()}")
        return found

    def expect_stop(self) -> None:
        """Ends the run as a scheduler does, and expects it to save."""
        self.processes[0].send_signal(signal.SIGTERM)
        self.expect_end({STOPPED_EARLY})

    def workers(self) -> list[int]:
        """The processes that read images for this run."""
        found, parents = [], {process.pid for process in self.processes}
        for folder in Path("/proc").iterdir():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1]) if folder.name.isdigit() else 0
                if parent in parents and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it has ended
                continue
        return sorted(found)

    def _last_words(self) -> str:
        return "; ".join(f"{path.name}: {path.read_text(errors='replace')[-400:]!r}" for path in self._logs)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: for people.
        strike: does it to a `Run` and expects what must follow, or to a workdir at rest; returns what was done.
        at_rest: whether it is of the second kind, which returns the step of the checkpoint too.
        flags: that a run needs to meet it.
    """

    name: str
    strike: Callable[[Any, random.Random], Any]
    at_rest: bool = False
    flags: tuple[str, ...] = ()


def _terminate(run: Run, draw: random.Random) -> str:
    return _signal(run, draw.choice(run.processes), signal.SIGTERM, {STOPPED_EARLY})


def _terminate_all(run: Run, draw: random.Random) -> str:
    return _signal(run, None, signal.SIGTERM, {STOPPED_EARLY})


def _kill(run: Run, draw: random.Random) -> str:
    return _signal(run, draw.choice(run.processes), signal.SIGKILL, {STOPPED_EARLY, -signal.SIGKILL})


def _kill_all(run: Run, draw: random.Random) -> str:
    return _signal(run, None, signal.SIGKILL, {-signal.SIGKILL})


def _signal(run: Run, to: subprocess.Popen | None, number: signal.Signals, codes: set[int]) -> str:
    step = run.last_step()
    for process in run.processes if to is None else (to,):
        process.send_signal(number)
    who = "all" if to is None else f"process {run.processes.index(to)}"
    return f"{who}, after step {step}: exit codes {run.expect_end(codes)}"


def _pause(run: Run, draw: random.Random) -> str:
    process, seconds = draw.choice(run.processes), draw.uniform(0.5, 5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    process.send_signal(signal.SIGCONT)
    run.wait_for_steps(2)
    run.expect_stop()
    return f"process {run.processes.index(process)} for {seconds:.1f} s: it went on"


def _fill_disk(run: Run, draw: random.Random) -> str:
    ballast = run.workdir.parent / "ballast"
    try:
        with ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
    except OSError:
        pass
    try:
        run.wait_until(lambda: run.has_said("could not be written in"), "the news that no checkpoint can be written")
    finally:
        ballast.unlink()
    # It is tried again by the clock; standing still, the run does not use up its steps meanwhile.
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for process in run.processes:
            process.send_signal(number)
        time.sleep(12 if number == signal.SIGSTOP else 0)
    run.wait_until(lambda: run.has_said("saving works again"), "the news that saving works again")
    run.expect_stop()
    return "it went on, and saved when there was room again"


def _kill_worker(run: Run, draw: random.Random) -> str:
    return _hit_worker(run, draw, signal.SIGKILL, "has ended (signal SIGKILL)")


def _stop_worker(run: Run, draw: random.Random) -> str:
    return _hit_worker(run, draw, signal.SIGSTOP, f"has read nothing for {_SILENCE:g} s")


def _hit_worker(run: Run, draw: random.Random, number: signal.Signals, expected: str) -> str:
    worker = draw.choice(run.workers())
    os.kill(worker, number)
    run.wait_until(lambda: run.has_said(expected), f"the news that a worker {expected}")
    run.wait_for_steps(2)
    run.expect_stop()
    return f"worker {worker} {expected}: it was started again"


def _cut(workdir: Path, draw: random.Random) -> tuple[int, str]:
    step, path = _a_file(workdir, draw)
    size = path.stat().st_size
    keep = draw.randrange(size)
    os.truncate(path, keep)
    return step, f"{_name(path)} cut to {keep} of {size} bytes"


def _flip(workdir: Path, draw: random.Random) -> tuple[int, str]:
    step, path = _a_file(workdir, draw)
    content = bytearray(path.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    return step, f"bit {bit} of byte {place} of {_name(path)}"


def _delete(workdir: Path, draw: random.Random) -> tuple[int, str]:
    step, file = _a_file(workdir, draw)
    top = workdir / "checkpoints" / str(step)
    part = draw.choice([file, *(parent for parent in file.parents if top in parent.parents)])
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink()
    return step, f"{_name(part)} deleted"


def _a_file(workdir: Path, draw: random.Random) -> tuple[int, Path]:
    """A file of the newest checkpoint that has something in it; what was put aside before is deleted for its room."""
    shutil.rmtree(workdir / "checkpoints_damaged", ignore_errors=True)
    step = list_steps(workdir / "checkpoints")[0]
    files = [
        path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file() and path.stat().st_size
    ]
    return step, draw.choice(sorted(files))


def _written(checkpoint: Path) -> float:
    try:
        return checkpoint.stat().st_mtime
    except FileNotFoundError:  # a newer one took its place
        return 0.0


def _name(path: Path) -> str:
    parts = path.parts
    return "/".join(parts[parts.index("checkpoints") + 1 :])


_WORKER = ("--config.compute.workers=1", f"--config.compute.loader_timeout_seconds={_SILENCE}")

WHILE_TRAINING = (
    Fault("SIGTERM to one", _terminate),
    Fault("SIGTERM to all", _terminate_all),
    Fault("SIGKILL to one", _kill),
    Fault("SIGKILL to all", _kill_all),
    Fault("one stopped for a while", _pause),
    Fault("worker killed", _kill_worker, flags=_WORKER),
    Fault("worker stopped", _stop_worker, flags=_WORKER),
)
ON_A_SMALL_DISK = (Fault("disk full", _fill_disk),)
AT_REST = (
    Fault("file of the newest checkpoint cut off", _cut, at_rest=True),
    Fault("bit of the newest checkpoint changed", _flip, at_rest=True),
    Fault("part of the newest checkpoint deleted", _delete, at_rest=True),
)
