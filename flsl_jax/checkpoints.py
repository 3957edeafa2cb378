"""Checkpoints with orbax: asynchronous, atomic, the newest k and the best; only committed ones are ever read."""

import contextlib
import dataclasses
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from flsl_jax.errors import UserError

# Orbax writes this file when everything else is written.
_MARK = "_CHECKPOINT_METADATA"


class Checkpoints:
    """The `checkpoints/` folder of a run.

    A checkpoint of step s holds the state after s updates. Saving copies the state off the devices and returns; the
    files are written while training goes on, and the folder takes its name only when they are complete.
    """

    def __init__(self, folder: Path, *, keep: int, best: str | None = None) -> None:
        """Opens the folder, which is created if it does not exist.

        Args:
            folder: of all checkpoints of the run.
            keep: how many of the newest are kept.
            best: name of the metric whose largest value marks one more checkpoint to keep; None: there is none.
        """
        newest = checkpoint_managers.LatestN(n=keep)
        policy = newest
        self._best = best
        if best is not None:
            # A checkpoint from before the config named this metric counts as the worst.
            best_one = checkpoint_managers.BestN(
                get_metric_fn=lambda metrics: metrics.get(best, -math.inf), n=1, keep_checkpoints_without_metrics=False
            )
            policy = checkpoint_managers.AnyPreservationPolicy([newest, best_one])
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=None if best is None else lambda metrics: metrics.get(best, -math.inf),
                enable_async_checkpointing=True,
            ),
            item_handlers={"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest_step(self) -> int | None:
        """The newest committed step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, *, run: dict[str, Any], metrics: Mapping[str, float] | None = None) -> None:
        """Starts to save; a step that is already there is left alone. An earlier save that failed raises here.

        Args:
            step: updates done.
            state: pytree of arrays on any devices.
            run: what a reader needs besides the state (the config, versions); plain JSON.
            metrics: what was measured at this step; the one that chooses the best checkpoint is kept with it.
        """
        self._manager.check_for_errors()
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)),
            metrics={name: float(value) for name, value in (metrics or {}).items() if name == self._best} or None,
        )

    def restore(self, step: int, abstract_state: Any) -> Any:
        """The state of `step`, on the devices and with the shardings of `abstract_state` (of `jax.ShapeDtypeStruct`).

        Raises:
            UserError: the checkpoint is of another network or optimizer; names what differs.
        """
        saved = _flat_shapes(self._manager.item_metadata(step)["state"])
        expected = _flat_shapes(abstract_state)
        problems = [
            f"{name} {saved.get(name)} instead of {shape}"
            for name, shape in expected.items()
            if saved.get(name) != shape
        ]
        problems += [f"{name} is not part of this run's state" for name in saved.keys() - expected.keys()]
        if problems:
            raise UserError(
                f"checkpoint {self._manager.directory / str(step)} does not fit this config: {'; '.join(problems[:4])}"
                f"{f' and {len(problems) - 4} more' if len(problems) > 4 else ''}; resume with the config that it was "
                "written with (config.json in the workdir), or take another --workdir"
            )
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state)))
        return restored["state"]

    def wait(self) -> None:
        """Waits until the current save is committed; if it failed, raises its error."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the current save, then closes the folder."""
        self._manager.wait_until_finished()
        self._manager.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences orbax's messages about folders that are only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@_quiet()
def committed_step(folder: Path) -> int | None:
    """The newest committed step in a workdir's `checkpoints/` folder, or None."""
    with ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        return manager.latest_step()


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


@_quiet()
def read_checkpoint(
    folder: Path, *, step: int | None = None, parts: Collection[str] | None = None
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Step, state as nested dictionaries of NumPy arrays, and the run's description, on any machine.

    Args:
        folder: a workdir's `checkpoints/` folder, written on any topology.
        step: a committed step; the newest one by default.
        parts: keys of the state that are read, such as "teacher"; all by default.

    Raises:
        UserError: there is no committed checkpoint.
    """
    with ocp.CheckpointManager(folder.absolute(), options=ocp.CheckpointManagerOptions(read_only=True)) as manager:
        steps = sorted(manager.all_steps())
        if not steps or (step is not None and step not in steps):
            wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
            raise UserError(f"no committed {wanted} in {folder}; committed steps: {steps or 'none'}")
        chosen = steps[-1] if step is None else step
    place = folder.absolute() / str(chosen)
    if not (place / _MARK).exists():
        raise UserError(f"{place} has no commit mark ({_MARK}): it is incomplete; copy it whole, or name another step")
    # Restored as NumPy: the shardings in the files name devices that this machine need not have.
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(place / "state").item_metadata.tree
        wanted = {name: jax.tree.map(lambda _: 0, tree[name]) for name in (tree if parts is None else parts)}
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        state = reader.restore(
            place / "state",
            args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments, partial_restore=True),
        )
    return chosen, state, read_description(place)


def read_description(checkpoint: Path) -> dict[str, Any]:
    """What was saved as `run` with a committed checkpoint, a folder `checkpoints/STEP`."""
    return json.loads(next((checkpoint / "run").glob("*")).read_text())


def _flat_shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}
