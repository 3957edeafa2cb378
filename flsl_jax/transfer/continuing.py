"""A fine-tuning run that continues: what has changed since its checkpoint, and what of it is refused unless asked for."""

import dataclasses
import functools
import logging
import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from flsl_jax.config.changes import Change, check_names, differences, refusal, within
from flsl_jax.config.saved import CONFIG_FILE, append_changes
from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.errors import UserError, first_line, one_line
from flsl_jax.transfer.config import TransferConfig, read_transfer_config
from flsl_jax.transfer.data.objects import ObjectImages
from flsl_jax.transfer.judging.measurement import RESULT_FILE, write_json
from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.processes import gathered
from flsl_jax.transfer.trained import MODEL_FILE, read_json

log = logging.getLogger(__name__)

# Keys and groups of keys that change no number of a step or of a measurement.
_FREE = ("measure_every", "log_every", "data.workers", "network.checkpointing", "paper", "paper_numbers")
# What `model.json` says of the backbone, and the name that allows another one.
_SOURCE, _DIGEST, _BACKBONE = "backbone_source", "backbone_digest", "backbone"
# What it says of the images, and the last parts of keys that say how images are read and judged, whichever they are.
_DATA, _HOW_READ = "data", ("name", "ignored_rule", "fill_ignored")
# What its two parts are there for.
_TO = {"train": "train", "val": "measure"}
# Keys that name what the optimizer keeps of each parameter.
_STATE = ("optimizer.name",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run goes on from `checkpoint`, after `step` updates.

    `changes`: of its config since then. `model`: what its `model.json` should say from now on. `same_numbers`: whether a
    measurement of the checkpoint is what it was; `same_judge`: whether it may be compared with earlier ones.
    """

    workdir: Path
    checkpoint: Path
    step: int
    changes: tuple[Change, ...]
    model: Mapping[str, Any]
    same_numbers: bool
    same_judge: bool

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
        if not self.same_judge:
            state["best"] = -math.inf

    def record(self, fabric: Fabric) -> None:
        """Writes what has changed into `config.json` and `model.json`, once all processes have read them. All call it.

        A result that the run measured before is no longer its own where a change has to do with numbers; it is removed.
        """
        fabric.barrier()
        if not fabric.is_global_zero:
            return
        if not self.same_numbers:
            (self.workdir / RESULT_FILE).unlink(missing_ok=True)
        if self.model != read_json(self.workdir / MODEL_FILE):
            write_json(self.workdir / MODEL_FILE, self.model, indent=2)
        if self.changes:
            append_changes(self.changes, self.workdir / CONFIG_FILE, step=self.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a run trains beside its config: a backbone, and the images to train and to measure on."""

    backbone: Backbone
    train: ObjectImages | MaskedSource
    val: ObjectImages | MaskedSource

    @functools.cached_property
    def data(self) -> dict[str, dict[str, Any]]:
        """Number and digest of the images to train and to measure on; plain JSON."""
        sources = {"train": self.train, "val": self.val}
        return {name: {"images": len(source), "digest": source.digest} for name, source in sources.items()}

    def describe(self) -> dict[str, Any]:
        """What a run that begins keeps of it, in its `model.json`."""
        backbone = self.backbone
        return {_BACKBONE: backbone.report, _SOURCE: backbone.source, _DIGEST: backbone.digest, _DATA: self.data}


def check_allowed(allowed: Sequence[str], config: TransferConfig) -> None:
    """Refuses names in --allow_changes that are neither keys of the config, nor groups of them, nor "backbone".

    Raises:
        UserError: says which was meant.
    """
    check_names(allowed, config, more=(_BACKBONE,), page="docs/transfer_config.md")


def continue_with(
    config: TransferConfig, *, start: Start, checkpoint: Path, workdir: Path, allowed: Sequence[str]
) -> Continuation:
    """Compares what a run is to continue with and what it has been trained with, and logs what differs.

    Args:
        config: the present one.
        start: the present images, and the backbone that `--backbone` names now; the run goes on with its own weights, whatever
            that holds.
        checkpoint: of the run.
        workdir: of the run.
        allowed: keys of the config, or groups of them, that may differ although other numbers come of it; "data" also allows
            other images under the same keys, and "backbone" that --backbone names another one, which is passed over.

    Raises:
        UserError: something else differs that changes the numbers, or nothing is left to do; says what, and how to go on.
    """
    step, model = _step_of(checkpoint), read_json(workdir / MODEL_FILE)
    if step > config.steps:
        raise UserError(
            f"the run in {workdir} is at step {step}, but config.steps = {config.steps} ends it at step {config.steps}: "
            "nothing is left to do; raise that, or take another --workdir"
        )
    changes = differences(read_transfer_config(workdir / CONFIG_FILE), config)
    state = [change for change in changes if change.key in _STATE]
    if state:
        raise UserError(
            f"the run in {workdir} was begun with another optimizer ({state[0]}), whose state the new one cannot take over; "
            "repeat the run's own command, or take another --workdir for a new run"
        )
    backbone = _backbone_change(start.backbone, model)
    images = _image_changes(start.data, model, config=config)
    weighed = [*images, *_weighed(changes, start.data, model, config=config)]
    asked = [backbone] if backbone is not None and backbone.old != backbone.new else []
    refused = [change for change in [*asked, *weighed] if not any(within(change.key, name) for name in allowed)]
    if refused:
        raise UserError(refusal(refused, allowed=allowed, step=step, workdir=workdir))
    log.info("continuing from step %d in %s", step, workdir)
    if backbone is not None:
        started = backbone.old if asked else "other weights of that name"
        log.warning("--backbone=%s is passed over: this run started from %s", backbone.new, started)
    if changes or images:
        log.info("changed since then: %s", "; ".join(map(str, [*changes, *images])))
    if step == config.steps:
        log.info(
            "no step is left: the run is at step %d, where it ends; a larger config.steps with --allow_changes=steps goes on",
            step,
        )
    return Continuation(
        workdir=workdir,
        checkpoint=checkpoint,
        step=step,
        changes=changes,
        model=model | {_DATA: start.data},
        same_numbers=not weighed,
        same_judge=not any(within(change.key, _paths(config)["val"]) for change in weighed),
    )


def check_same_data(start: Start, fabric: Fabric) -> None:
    """Makes sure that all processes have the same images. All of them must call it.

    Raises:
        UserError: one does not, on all of them; names it.
    """
    found = gathered([start.data], fabric)
    for process, data in enumerate(found):
        for name, images in data.items():
            if images != found[0][name]:
                raise UserError(
                    f"process {process} has other images than process 0 to {_TO[name]} on ({_shown(images)}, not "
                    f"{_shown(found[0][name])}); give every process the same files under the same names"
                )


def _backbone_change(backbone: Backbone, model: Mapping[str, Any]) -> Change | None:
    """From the backbone that the run was begun with to one of other weights. Earlier versions did not write it down."""
    if model.get(_DIGEST) in (None, backbone.digest):
        return None
    return Change(key=_BACKBONE, old=model.get(_SOURCE, ""), new=backbone.source)


def _image_changes(data: Mapping[str, Any], model: Mapping[str, Any], *, config: TransferConfig) -> list[Change]:
    """From the images of the run to other ones. Earlier versions did not write them down."""
    before = model.get(_DATA, {})
    return [
        Change(key=path, old=_shown(before[name]), new=_shown(data[name]))
        for name, path in _paths(config).items()
        if before.get(name, data[name]) != data[name]
    ]


def _weighed(
    changes: Sequence[Change], data: Mapping[str, Any], model: Mapping[str, Any], *, config: TransferConfig
) -> list[Change]:
    """The changes that change numbers: what the run does not use is none of them, nor the place of the same images."""
    paths, before = _paths(config), model.get(_DATA, {})
    same = [path for name, path in paths.items() if before.get(name) == data[name]]
    kept = []
    for change in changes:
        is_unused = within(change.key, "data") and not any(within(change.key, path) for path in paths.values())
        is_place = any(within(change.key, path) for path in same) and change.key.split(".")[-1] not in _HOW_READ
        if not (is_unused or is_place or any(within(change.key, name) for name in _FREE)):
            kept.append(change)
    return kept


def _paths(config: TransferConfig) -> dict[str, str]:
    """The keys of the images to train and to measure on."""
    return {name: f"data.{name}_masks" if config.is_segmentation else f"data.{name}" for name in _TO}


def _shown(images: Mapping[str, Any]) -> str:
    return f"{images['images']:,} images ({images['digest'][:8]})"


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
