"""A fine-tuning run that continues: what has changed since its checkpoint, and what of it is refused unless asked for."""

import dataclasses
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from flsl_jax.config.changes import Change, check_names, differences, refusal, within
from flsl_jax.config.saved import CONFIG_FILE, append_changes
from flsl_jax.errors import UserError, first_line, one_line
from flsl_jax.transfer.backbone import Backbone
from flsl_jax.transfer.config import TransferConfig
from flsl_jax.transfer.measurement import RESULT_FILE
from flsl_jax.transfer.trained import MODEL_FILE, read_config, read_json

log = logging.getLogger(__name__)

# Keys and groups of keys that change no number of a step or of a measurement.
_FREE = ("measure_every", "log_every", "data.workers", "network.checkpointing", "paper", "paper_numbers")
# What `model.json` says of the backbone, and the name that allows another one.
_SOURCE, _DIGEST, _BACKBONE = "backbone_source", "backbone_digest", "backbone"
# Keys that name what the optimizer keeps of each parameter.
_STATE = ("optimizer.name",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run goes on from `checkpoint`, after `step` updates; `changes`: of its config since then."""

    workdir: Path
    checkpoint: Path
    step: int
    changes: tuple[Change, ...] = ()

    def restore(self, state: dict[str, Any], fabric: Fabric) -> None:
        """Reads the checkpoint into `state`; the optimizer's settings stay those of the present config. All processes call it.

        Raises:
            UserError: the checkpoint does not fit the network or the optimizer.
        """
        present = [
            {name: value for name, value in group.items() if name != "params"}
            for group in state["optimizer"].param_groups
        ]
        try:
            fabric.load(self.checkpoint, state)
        except (RuntimeError, ValueError, KeyError) as error:
            said = f" ({'; '.join(map(str, self.changes))})" if self.changes else ""
            raise UserError(
                f"{self.checkpoint} does not fit the run's settings{said}: {_in_short(error)}; what shapes the network or the "
                "groups of its parameters stays as the run began, so take another --workdir for a new run"
            ) from error
        for group, settings in zip(state["optimizer"].param_groups, present, strict=True):
            group.update(settings)

    def record(self, fabric: Fabric) -> None:
        """Adds the changes to the run's `config.json`, once all processes have read it. All processes call it.

        A result that the run measured before is no longer its own where a change has to do with numbers; it is removed.
        """
        fabric.barrier()
        if not fabric.is_global_zero or not self.changes:
            return
        if not all(_is_free(change) for change in self.changes):
            (self.workdir / RESULT_FILE).unlink(missing_ok=True)
        append_changes(self.changes, self.workdir / CONFIG_FILE, step=self.step)


def describe_backbone(backbone: Backbone) -> dict[str, str]:
    """What a run keeps of the backbone that it starts from, in its `model.json`."""
    return {_BACKBONE: backbone.report, _SOURCE: backbone.source, _DIGEST: backbone.digest}


def check_allowed(allowed: Sequence[str], config: TransferConfig) -> None:
    """Refuses names in --allow_changes that are neither keys of the config, nor groups of them, nor "backbone".

    Raises:
        UserError: says which was meant.
    """
    check_names(allowed, config, more=(_BACKBONE,), page="docs/transfer_config.md")


def continue_with(
    config: TransferConfig, *, backbone: Backbone, checkpoint: Path, workdir: Path, allowed: Sequence[str]
) -> Continuation:
    """Compares a config and a backbone with those of the run that is to continue, and logs what differs.

    Args:
        config: the present one.
        backbone: the one that `--backbone` names now; the run goes on with its own weights, whatever that holds.
        checkpoint: of the run.
        workdir: of the run.
        allowed: keys of the config, or groups of them, that may differ although other numbers come of it; "backbone" allows
            that --backbone names another one, which is passed over.

    Raises:
        UserError: something else differs that changes the numbers, or nothing is left to do; says what, and how to go on.
    """
    step = _step_of(checkpoint)
    if step > config.steps:
        raise UserError(
            f"the run in {workdir} is at step {step}, but config.steps = {config.steps} ends it at step {config.steps}: "
            "nothing is left to do; raise that, or take another --workdir"
        )
    changes = differences(read_config(workdir), config)
    state = [change for change in changes if change.key in _STATE]
    if state:
        raise UserError(
            f"the run in {workdir} was begun with another optimizer ({state[0]}), whose state the new one cannot take over; "
            "repeat the run's own command, or take another --workdir for a new run"
        )
    other_weights = _backbone_change(backbone, read_json(workdir / MODEL_FILE))
    is_asked_for = other_weights is not None and other_weights.old != other_weights.new
    refused = [
        change
        for change in [*([other_weights] if is_asked_for else []), *changes]
        if not _is_free(change) and not any(within(change.key, name) for name in allowed)
    ]
    if refused:
        raise UserError(refusal(refused, allowed=allowed, step=step, workdir=workdir))
    log.info("continuing from step %d in %s", step, workdir)
    if other_weights is not None:
        started = other_weights.old if is_asked_for else "other weights of that name"
        log.warning("--backbone=%s is passed over: this run started from %s", backbone.source, started)
    if changes:
        log.info("changed since then: %s", "; ".join(map(str, changes)))
    if step == config.steps:
        log.info(
            "no step is left: the run is at step %d, where it ends; a larger config.steps with --allow_changes=steps goes on",
            step,
        )
    return Continuation(workdir=workdir, checkpoint=checkpoint, step=step, changes=changes)


def _backbone_change(backbone: Backbone, begun: Mapping[str, Any]) -> Change | None:
    """From the backbone that the run was begun with to one of other weights. Earlier versions did not write it down."""
    if begun.get(_DIGEST) in (None, backbone.digest):
        return None
    return Change(key=_BACKBONE, old=begun.get(_SOURCE, ""), new=backbone.source)


def _is_free(change: Change) -> bool:
    return any(within(change.key, name) for name in _FREE)


def _step_of(checkpoint: Path) -> int:
    """The updates done until a checkpoint, without reading its tensors."""
    try:
        return torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["step"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{checkpoint} cannot be read ({_in_short(error)}); put a whole copy there, or take another --workdir"
        ) from error


def _in_short(error: Exception) -> str:
    """The first line of an error with a second one, which has the name in PyTorch's errors about parameters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(" ".join(lines[:2]) or first_line(error))[:200]
