"""Runs of two real processes on loopback."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flsl_jax.workdir import read_metrics

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, *flags, devices=1) -> subprocess.Popen:
    """A command that trains the tiny config on so many devices."""
    return subprocess.Popen(
        [sys.executable, "-m", "flsl_jax.main", "--config=tests/tiny.py", f"--workdir={workdir}", *flags],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_one(workdir, number: int, *flags, port: int, timeout=60, devices=1) -> subprocess.Popen:
    """One process of two."""
    return start(
        workdir,
        "--config.parallel.distributed=True",
        f"--config.parallel.coordinator=127.0.0.1:{port}",
        "--config.parallel.num_processes=2",
        f"--config.parallel.process_id={number}",
        f"--config.parallel.timeout_seconds={timeout}",
        *flags,
        devices=devices,
    )


def start_two(workdir, *flags, own: Sequence[Sequence[str]] = ((), ()), devices=1) -> list[subprocess.Popen]:
    """Two processes of a run; `own` are the flags of each alone."""
    port = free_port()
    return [start_one(workdir, number, *flags, *own[number], port=port, devices=devices) for number in range(2)]


def ended(processes: Sequence[subprocess.Popen]) -> list[str]:
    """Waits for all; their outputs."""
    try:
        return [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for_lines(workdir, count: int, processes: Sequence[subprocess.Popen]) -> None:
    """Waits until a run has written so many lines of metrics."""
    deadline = time.monotonic() + 120
    while len(read_metrics(Path(workdir) / "metrics.jsonl")) < count:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.02)


def errors(output: str) -> list[str]:
    """The lines that are neither the log of a run that goes well nor gloo's."""
    return [line for line in output.splitlines() if "error" in line.lower() or "Traceback" in line or "***" in line]
