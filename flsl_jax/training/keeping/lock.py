"""The lock of a pretraining's workdir, by which the processes of JAX agree on whether it is theirs."""

import contextlib
from pathlib import Path

import jax

from flsl_jax import parallel
from flsl_jax.training.keeping.lock_file import Lock, check_held, held


def locked(workdir: Path) -> contextlib.AbstractContextManager[Lock | None]:
    """`lock_file.held` of the processes of JAX.

    Raises:
        UserError: on entering it, where another run uses the workdir, or it cannot be written.
    """
    return held(workdir, is_first=jax.process_index() == 0, agreed=parallel.as_first)


def check_lock(lock: Lock | None) -> None:
    """`Lock.check` by the first process, which has the lock; raises on all of them. All processes must call it."""
    check_held(lock, agreed=parallel.as_first)
