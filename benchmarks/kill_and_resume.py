"""Kills a run with SIGKILL at random moments, lets it finish, and compares it with a run that was never killed.

    python -m benchmarks.kill_and_resume --kills=5 --rounds=4

Prints one line a round: the steps at which it was killed, and whether parameters, optimizer state and metrics (without
the timing values) are bit-identical. Exit code 1 if any round differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.workdir import read_metrics

_TIMING = ("images_per_sec", "data_wait_share", "mfu")


def main() -> int:
    """Runs the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="kills in each round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--config", default="tests/tiny.py", help="config file of the run")
    parser.add_argument("--steps", type=int, default=40, help="steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments of the kills")
    arguments = parser.parse_args()
    draw, same = random.Random(arguments.seed), True
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference"
        _finish(_start(arguments, reference))
        for number in range(arguments.rounds):
            workdir = Path(folder) / str(number)
            kills = [_kill(_start(arguments, workdir), workdir, draw) for _ in range(arguments.kills)]
            _finish(_start(arguments, workdir))
            equal = _same(workdir, reference)
            same &= equal
            print(f"round {number}: killed after step {kills}: {'bit-identical' if equal else 'DIFFERENT'}", flush=True)
    return 0 if same else 1


def _start(arguments: argparse.Namespace, workdir: Path) -> subprocess.Popen:
    flags = [f"--config={arguments.config}", f"--workdir={workdir}", f"--config.stop_at_step={arguments.steps}"]
    epochs = ["--config.epochs=100", "--config.checkpoint.every_epochs=1.0"]
    return subprocess.Popen(
        [sys.executable, "-m", "flsl_jax.main", *flags, *epochs], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode())


def _kill(process: subprocess.Popen, workdir: Path, draw: random.Random) -> int:
    """Kills at a random moment after the first new line of metrics; returns the last written step."""
    before = len(read_metrics(workdir / "metrics.jsonl"))
    while process.poll() is None and len(read_metrics(workdir / "metrics.jsonl")) <= before:
        time.sleep(0.01)
        before = min(before, len(read_metrics(workdir / "metrics.jsonl")))
    time.sleep(draw.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lines = read_metrics(workdir / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


def _same(workdir: Path, reference: Path) -> bool:
    states = [read_checkpoint(path / "checkpoints")[:2] for path in (workdir, reference)]
    lines = [
        [
            {key: value for key, value in line.items() if key not in _TIMING}
            for line in read_metrics(path / "metrics.jsonl")
        ]
        for path in (workdir, reference)
    ]
    leaves = [jax.tree.leaves(state) for _, state in states]
    equal = all(np.array_equal(ours, theirs) for ours, theirs in zip(*leaves, strict=True))
    return states[0][0] == states[1][0] and equal and lines[0] == lines[1]


if __name__ == "__main__":
    sys.exit(main())
