"""The folder `checkpoints/` of a run: which steps are in it, what a path names, and a place for what is damaged."""

import dataclasses
import os
from pathlib import Path

from flsl_jax.errors import UserError

# Beside `checkpoints/`: where training puts what it passes over, so that the same step can be saved again.
_DAMAGED = "checkpoints_damaged"


@dataclasses.dataclass(frozen=True)
class CheckpointPlace:
    """A workdir's `checkpoints/` folder and a step in it; None: the newest."""

    folder: Path
    step: int | None


def find_checkpoint(path: Path) -> CheckpointPlace:
    """The checkpoint that a path names: a workdir, its `checkpoints/` folder, or one checkpoint in it.

    Raises:
        UserError: the path is none of these.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run's workdir or a checkpoint folder inside it")
    if (path / "checkpoints").is_dir():
        return CheckpointPlace(path / "checkpoints", None)
    if ".orbax-checkpoint-tmp" in path.name:
        raise UserError(
            f"{path} was never completed: the run ended while it was written; name the workdir or another step"
        )
    if path.name.isdigit():
        return CheckpointPlace(path.parent, int(path.name))
    if path.name == "checkpoints":
        return CheckpointPlace(path, None)
    raise UserError(f"{path} is neither a run's workdir (no checkpoints/ in it) nor a checkpoint (checkpoints/STEP)")


def list_steps(folder: Path) -> list[int]:
    """The steps whose names are in a `checkpoints/` folder, the newest first, whatever state they are in."""
    if not folder.is_dir():
        return []
    return sorted((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), reverse=True)


def set_aside(folder: Path, step: int) -> Path:
    """Moves a damaged checkpoint out of `checkpoints/`, into a folder beside it, and returns its new path.

    Raises:
        UserError: it cannot be moved.
    """
    base = folder.parent / _DAMAGED / str(step)
    number = 1
    target = base
    while target.exists():
        number += 1
        target = base.with_name(f"{step}_{number}")
    try:
        target.parent.mkdir(exist_ok=True)
        os.rename(folder / str(step), target)
    except OSError as error:
        raise UserError(
            f"the damaged checkpoint {folder / str(step)} cannot be moved to {target} ({error.strerror}); move or delete it"
        ) from error
    return target
