"""Checkpoints as NumPy arrays, on any machine: for evaluation, conversion and a look at what is there."""

import errno
import gc
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flsl_jax.checkpoints.digests import host_sums, names_of
from flsl_jax.checkpoints.folder import list_steps
from flsl_jax.checkpoints.inspection import (
    STATE,
    DamagedCheckpoint,
    check_index,
    inspect,
    read_description,
    read_digests,
)
from flsl_jax.checkpoints.orbax_log import silence_orbax
from flsl_jax.errors import UserError, reason

log = logging.getLogger(__name__)
silence_orbax()

# Of what could not be read, so many characters are shown.
_SHOWN = 160
# What the system says of a disk, somewhere in the long lines of tensorstore.
_KNOWN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO, errno.ESTALE)
# What tensorstore says where a second try may succeed: the files are as they were.
_UNREACHABLE = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Permission denied")


def read_checkpoint(
    folder: Path, *, step: int | None = None, parts: Collection[str] | None = None
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Step, state as nested dictionaries of NumPy arrays, and the run's description, verified, on any machine.

    Args:
        folder: a workdir's `checkpoints/` folder, written on any topology.
        step: a step in it; by default the newest one that is whole, and a warning names those that are passed over.
        parts: keys of the state that are read, such as "teacher"; all by default.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    steps = list_steps(folder)
    if not steps or (step is not None and step not in steps):
        wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
        raise UserError(f"no committed {wanted} in {folder}; committed steps: {sorted(steps) or 'none'}")
    damaged: list[DamagedCheckpoint] = []
    for candidate in steps if step is None else [step]:
        try:
            state, run = _read(folder / str(candidate), parts=parts)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        for passed in damaged:
            log.warning(
                "the checkpoint of step %d in %s is damaged: %s; it is passed over", passed.step, folder, passed
            )
        if damaged:
            log.warning("taken instead: the checkpoint of step %d", candidate)
        return candidate, state, run
    raise no_good_checkpoint(folder, damaged, advice="name another one, or copy it whole again")


def no_good_checkpoint(folder: Path, damaged: Collection[DamagedCheckpoint], *, advice: str) -> UserError:
    """The error that says of every checkpoint what is wrong with it; `damaged` is empty on processes that did not look."""
    if not damaged:
        return UserError(f"the first process found no whole checkpoint in {folder}; {advice}")
    named = "; ".join(f"step {error.step}: {error}" for error in damaged)
    number = "checkpoint" if len(damaged) == 1 else f"all {len(damaged)} checkpoints"
    return UserError(f"{number} in {folder} {'is' if len(damaged) == 1 else 'are'} damaged ({named}); {advice}")


def verify(checkpoint: Path) -> str:
    """Reads a folder `checkpoints/STEP` whole, a part at a time, and says in a few words how far it was verified.

    Raises:
        DamagedCheckpoint: it is not as it was saved.
        UserError: it cannot be read at present.
    """
    inspect(checkpoint)
    with ocp.PyTreeCheckpointer() as reader:
        parts = list(_metadata(checkpoint, reader))
    for part in parts:
        _read(checkpoint, parts=[part])
    return "intact" if read_digests(checkpoint) is not None else "readable (it was written without digests)"


def check_fits(checkpoint: Path, abstract_state: Any) -> None:
    """Compares the shapes in a folder `checkpoints/STEP` with those of a state; its arrays are not read.

    Args:
        checkpoint: the folder.
        abstract_state: what is to be restored, with leaves that have shapes.

    Raises:
        DamagedCheckpoint: its index is damaged.
        UserError: the checkpoint is of another network or optimizer; names what differs.
    """
    check_index(checkpoint)
    state: Any = checkpoint / STATE  # typed as a path of orbax's own
    saved = _flat_shapes(ocp.StandardCheckpointHandler().metadata(state))
    expected = _flat_shapes(abstract_state)
    problems = [
        f"{name} {saved.get(name)} instead of {shape}" for name, shape in expected.items() if saved.get(name) != shape
    ]
    problems += [f"{name} is not part of this run's state" for name in saved.keys() - expected.keys()]
    if problems:
        raise UserError(
            f"checkpoint {checkpoint} does not fit this config: {'; '.join(problems[:4])}"
            f"{f' and {len(problems) - 4} more' if len(problems) > 4 else ''}; resume with the config that it was "
            "written with (config.json in the workdir), or take another --workdir"
        )


def _flat_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in names_of(tree).items()}


def damage_of(error: Exception, checkpoint: Path) -> DamagedCheckpoint:
    """What an error in reading arrays says of the checkpoint. Raises it if it is none of the checkpoint's.

    Raises:
        UserError: the files cannot be reached at present.
        Exception: the error itself, if memory is short.
    """
    if isinstance(error, DamagedCheckpoint):
        return error
    if isinstance(error, MemoryError | UserError) or "RESOURCE_EXHAUSTED" in str(error):
        raise error
    if isinstance(error, PermissionError | TimeoutError) or any(word in str(error) for word in _UNREACHABLE):
        raise UserError(f"{checkpoint} cannot be read ({why(error)}); check the folder, then try again") from error
    _forget(error)
    return DamagedCheckpoint(int(checkpoint.name), f"its arrays cannot be read ({why(error)})")


def _forget(error: BaseException) -> None:
    """Drops what the frames of an error hold: other reads that orbax had begun, of which Python would complain later."""
    complain = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
            link: BaseException | None = error
            while link is not None:
                traceback.clear_frames(link.__traceback__)
                link = link.__cause__ or link.__context__
            gc.collect()
    finally:
        sys.unraisablehook = complain


def _read(checkpoint: Path, *, parts: Collection[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    checkpoint = checkpoint.absolute()
    try:
        inspect(checkpoint)
        run = read_description(checkpoint)
        check_index(checkpoint)
        # Restored as NumPy: the shardings in the files name devices that this machine need not have.
        with ocp.PyTreeCheckpointer() as reader:
            tree = _metadata(checkpoint, reader)
            wanted = {name: jax.tree.map(lambda _: 0, tree[name]) for name in (tree if parts is None else parts)}
            arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
            state = reader.restore(
                checkpoint / STATE,
                args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
            )
        _verify(checkpoint, state)
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        raise damage_of(error, checkpoint) from error
    return state, run


def _metadata(checkpoint: Path, reader: ocp.Checkpointer) -> Any:
    metadata: Any = reader.metadata(checkpoint.absolute() / STATE).item_metadata
    if metadata is None:
        raise DamagedCheckpoint(int(checkpoint.name), "its arrays cannot be listed")
    return metadata.tree


def _verify(checkpoint: Path, state: Any) -> None:
    digests = read_digests(checkpoint)
    if digests is None:
        return
    for name, array in names_of(state).items():
        if host_sums(np.asarray(array)) != digests.arrays.get(name):
            raise DamagedCheckpoint(int(checkpoint.name), f"{name} is not as it was saved")


def why(error: Exception) -> str:
    """Why files could not be read or written, in a few words."""
    text = str(error)
    known = next((os.strerror(number) for number in _KNOWN if os.strerror(number) in text), None)
    return known or _short(reason(error))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
