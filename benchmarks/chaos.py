"""Trains while faults fall upon the run, one after another, and compares the end with a run that was left alone.

    python -m benchmarks.chaos --faults=60 --seed=0

Real processes on loopback train tests/tiny.py. Between their steps a seeded schedule sends SIGTERM or SIGKILL to one or all
of them, stops one for a while, fills their disk, kills or stops a worker that reads images; between their runs it cuts off,
changes a bit of, or deletes a part of the newest checkpoint. After each fault the same command is given again. Half of the
faults meet a run that stays on two processes, the others one that is started on other processes and devices each time.

In the end each step must have its line in metrics.jsonl once, with the loss of the undisturbed run, so no sample was lost or
repeated; and the whole state must be that of the undisturbed run, to the bit where the processes stayed, within 1e-6 where
they changed. One line is printed for each fault. The exit code is 1 if anything is not as it should be. A disk can only be
filled where a small one can be mounted, so by root; else that fault is left out, which is said.
"""

import argparse
import contextlib
import dataclasses
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults import AT_REST, ON_A_SMALL_DISK, WHILE_TRAINING, Fault, Run, Surprise, Topology
from benchmarks.same_end import compare

# Steps that one fault may take: until two checkpoints are written, a random moment, and what passes until it is felt.
_STEPS_A_FAULT = 14
_HOME = Topology(processes=2)
_ELSEWHERE = (
    _HOME,
    Topology(processes=1),
    Topology(processes=1, devices=4, fsdp=2),
    Topology(processes=2, devices=2, fsdp=4),
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a run under faults. `noticed`: of the damaged checkpoints, how many were."""

    faults: int
    damaged: int
    noticed: int
    surprises: tuple[str, ...]


def main(arguments: list[str] | None = None) -> int:
    """Runs, compares and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60, help="how many, of all kinds in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the kinds and of all random moments")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: a temporary folder")
    chosen = parser.parse_args(arguments)
    if chosen.faults < 2:
        parser.error("--faults must be 2 or more: one for each of the two runs")
    draw = random.Random(chosen.seed)
    with _workplace(chosen.folder) as (folder, small):
        if not small:
            print("a small disk cannot be mounted here (only root can), so no disk is filled", flush=True)
        shares = (chosen.faults - chosen.faults // 2, chosen.faults // 2)
        steps = _STEPS_A_FAULT * shares[0]
        with Run(folder / "undisturbed", steps=steps, topology=_HOME) as undisturbed:
            undisturbed.expect_end({0})
        print(f"undisturbed: {steps} steps on {_HOME}", flush=True)
        right = True
        for name, topologies, count in (("stays", (_HOME,), shares[0]), ("moves", _ELSEWHERE, shares[1])):
            faults = _schedule(count, small=small, draw=draw)
            outcome = torment(folder / name, faults, steps=steps, topologies=topologies, draw=draw)
            end = compare(folder / name, folder / "undisturbed")
            print(
                f"the run that {name}: {outcome.faults} faults, {outcome.noticed} of {outcome.damaged} damages noticed; {end}"
            )
            print(*outcome.surprises, sep="\n", end="\n" if outcome.surprises else "", flush=True)
            right &= not outcome.surprises and (end.is_same if len(topologies) == 1 else end.is_close)
    return 0 if right else 1


def torment(
    workdir: Path, faults: list[Fault], *, steps: int, topologies: tuple[Topology, ...], draw: random.Random
) -> Outcome:
    """Trains in `workdir` up to `steps`, with all faults on the way, each on one of the topologies."""
    surprises, damaged, noticed = [], 0, 0
    for number, fault in enumerate(faults, 1):
        topology = draw.choice(topologies)
        try:
            if fault.at_rest:
                damaged += 1
                step, done = fault.strike(workdir, draw)
                with Run(workdir, steps=steps, topology=topology) as run:
                    run.wait_for_progress()
                    seen = run.has_said(f"the checkpoint of step {step} is damaged")
                    noticed += seen
                    done += ", noticed" if seen else ", not noticed"
                    run.expect_stop()
            else:
                with Run(workdir, *fault.flags, steps=steps, topology=topology) as run:
                    run.wait_for_progress()
                    run.wait_for_steps(draw.randint(0, 4))
                    done = fault.strike(run, draw)
        except Surprise as error:
            surprises.append(f"fault {number}, {fault.name} on {topology}: {error}")
            done = f"NOT AS EXPECTED: {error}"
        print(f"{number:3} of {len(faults)}, {topology}: {fault.name}: {done}", flush=True)
    with Run(workdir, steps=steps, topology=topologies[0]) as run:
        run.expect_end({0})
    return Outcome(faults=len(faults), damaged=damaged, noticed=noticed, surprises=tuple(surprises))


def _schedule(count: int, *, small: bool, draw: random.Random) -> list[Fault]:
    """So many faults, each kind as often as the others, in a random order; the first one meets a run that trains."""
    kinds = [*WHILE_TRAINING, *AT_REST, *(ON_A_SMALL_DISK if small else ())]
    chosen: list[Fault] = []
    while len(chosen) < count:
        chosen += draw.sample(kinds, len(kinds))
    while chosen[0].at_rest:  # there is no checkpoint yet
        chosen.append(chosen.pop(0))
    return chosen[:count]


@contextlib.contextmanager
def _workplace(folder: Path | None) -> Iterator[tuple[Path, bool]]:
    """A folder to work in, on a small disk of its own if one can be mounted; and whether it is."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place]
        try:
            small = not subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            small = False
        try:
            yield Path(place), small
        finally:
            if small:
                subprocess.run(["umount", "-l", place], check=True)


if __name__ == "__main__":
    sys.exit(main())
