"""What is said around the step: that it is being compiled, how long that took the last time, and what to do without memory."""

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import multihost

from flsl_jax.errors import UserError, not_fatal
from flsl_jax.training.step import StepFunction

log = logging.getLogger(__name__)

# Longer than any compilation. A process that is lost ends the others before.
_BARRIER_HOURS = 24
# In the workdir: the seconds of the last compilation there.
COMPILATION_FILE = "compilation.json"


@contextlib.contextmanager
def announced(workdir: Path) -> Iterator[None]:
    """Around the first step of a run: logs one line before it, and keeps in the workdir what it took."""
    before = _last_seconds(workdir)
    log.info(
        "compiling the step; %s", "this can take minutes" if before is None else f"it took {before:.0f} s last time"
    )
    start = time.perf_counter()
    yield
    if jax.process_index() == 0:
        seconds = round(time.perf_counter() - start, 1)
        with not_fatal(COMPILATION_FILE):
            (workdir / COMPILATION_FILE).write_text(json.dumps({"seconds": seconds}) + "\n")


def compiled_together(step: Any, *arguments: Any) -> StepFunction:
    """What `jit_step` returns, which several processes compile for these arguments and begin together.

    One may compile far longer than another, which finds the program in its cache, and the first exchange of a program waits for
    the others only so long: half a minute on a CPU.
    """
    if jax.process_count() == 1:
        return step
    compiled = step.lower(*arguments).compile()
    multihost.get_barrier_sync_fn()(key="the step is compiled", timeout_ms=_BARRIER_HOURS * 3_600_000)
    return compiled


@contextlib.contextmanager
def memory_hint() -> Iterator[None]:
    """Context of a step.

    Raises:
        UserError: the devices ran out of memory; names what needs less.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            "the devices ran out of memory; raise config.compute.micro_batches (exact), set "
            "config.compute.remat=dots or full, raise config.parallel.fsdp, or lower config.batch_size"
        ) from error


def _last_seconds(workdir: Path) -> float | None:
    """None before the first compilation, or where its file is not what was written."""
    try:
        return float(json.loads((workdir / COMPILATION_FILE).read_text())["seconds"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
