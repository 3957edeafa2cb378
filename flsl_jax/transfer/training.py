"""Fine-tuning: a function of the seed and the step alone, so that a run that was killed goes on as if it had not been."""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn.functional import cross_entropy

from flsl_jax.config.saved import CONFIG_FILE
from flsl_jax.data.truth.mask_classes import IGNORED
from flsl_jax.data.truth.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.meaning import require_classes
from flsl_jax.training.keeping.interrupt import Interrupt
from flsl_jax.training.keeping.lock_file import Lock
from flsl_jax.training.watching.writers import Writers, open_writers
from flsl_jax.transfer.config import TransferConfig
from flsl_jax.transfer.continuing import Start, check_allowed, check_same_data, continue_with
from flsl_jax.transfer.data.objects import ObjectImages, open_objects
from flsl_jax.transfer.data.samples import Sample, TrainSamples, batches, random_seed
from flsl_jax.transfer.judging.measurement import RESULT_FILE, Measurement, read_measurement, write_json
from flsl_jax.transfer.judging.measuring import average_precision, classify, detect, mask_metrics, with_progress
from flsl_jax.transfer.judging.metrics import MAIN_METRICS
from flsl_jax.transfer.networks.backbone import Backbone
from flsl_jax.transfer.networks.building import build_network
from flsl_jax.transfer.optimizer import make_optimizer, set_learning_rate
from flsl_jax.transfer.pictures.run_report import try_report
from flsl_jax.transfer.processes import (
    asked_by_any,
    check_lock,
    gathered,
    locked,
    mean_over_processes,
    start_fabric,
    with_shared_statistics,
)
from flsl_jax.transfer.trained import MODEL_FILE, check_same_model, describe_model

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TransferOutcome:
    """How a run ended: updates done, whether those were all, and what was measured last."""

    step: int
    finished: bool
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferData:
    """What is trained on and what is measured on: both of one kind, with the same classes."""

    train: ObjectImages | MaskedSource
    val: ObjectImages | MaskedSource

    @property
    def num_classes(self) -> int:
        """Classes of objects or of pixels."""
        return len(self.train.class_names)


def open_data(config: TransferConfig) -> TransferData:
    """Opens the images of a run.

    Raises:
        UserError: they cannot be opened, have other classes, or are fewer than a batch.
    """
    data = config.data
    if config.is_segmentation:
        train, val = open_masked(data.train_masks), open_masked(data.val_masks)
        require_classes(train, None, key="config.data.train_masks")
        require_classes(val, None, key="config.data.val_masks")
        opened = TransferData(train=train, val=val)
    else:
        masks = config.network.kind == "mask_rcnn"
        train = open_objects(data.train, path="config.data.train", masks=masks)
        opened = TransferData(train=train, val=open_objects(data.val, path="config.data.val", masks=masks))
    if opened.train.class_names != opened.val.class_names:
        raise UserError(
            f"{opened.train.name} has the classes {', '.join(opened.train.class_names[:5])}, …, and {opened.val.name} "
            f"{', '.join(opened.val.class_names[:5])}, …; expected the same ones in the same order"
        )
    if len(opened.train) < config.batch_size:
        raise UserError(
            f"config.batch_size is {config.batch_size}, but {opened.train.name} has {len(opened.train)} images"
        )
    return opened


def fine_tune(
    config: TransferConfig, *, backbone: Backbone, workdir: Path, allow_changes: Sequence[str] = ()
) -> TransferOutcome:
    """Trains, or continues the run in `workdir` from its newest checkpoint, on all devices of this machine or of torchrun.

    Args:
        config: a checked configuration.
        backbone: pretrained; its parameters are trained on.
        workdir: folder of the run; created if it does not exist.
        allow_changes: keys of the config, or groups of them, that may differ from those that the run was trained with, although
            the numbers then differ too; "data" also allows other images under the same keys, and "backbone" another backbone,
            which is passed over.

    Raises:
        UserError: anything that the user can fix; and a loss that is not finite, with the step.
    """
    check_allowed(allow_changes, config)
    data = open_data(config)
    fabric = start_fabric(precision=config.precision, batch_size=config.batch_size)
    with locked(workdir, fabric) as lock:
        return _train_alone(
            config,
            backbone=backbone,
            data=data,
            workdir=workdir,
            allowed=allow_changes,
            fabric=fabric,
            lock=lock,
        )


def _train_alone(
    config: TransferConfig,
    *,
    backbone: Backbone,
    data: TransferData,
    workdir: Path,
    allowed: Sequence[str],
    fabric: Fabric,
    lock: Lock | None,
) -> TransferOutcome:
    start = Start(backbone=backbone, train=data.train, val=data.val)
    check_same_data(start, fabric)
    checkpoint, continuation = _newest(workdir), None
    ids = data.train.category_ids if isinstance(data.train, ObjectImages) else ()
    description = describe_model(backbone, class_names=data.train.class_names, category_ids=ids)
    if checkpoint is not None:
        check_same_model(description, workdir)
        continuation = continue_with(config, start=start, checkpoint=checkpoint, workdir=workdir, allowed=allowed)
    torch.manual_seed(random_seed(config.seed))
    model = with_shared_statistics(build_network(config, backbone=backbone, num_classes=data.num_classes), fabric)
    optimizer = make_optimizer(model, backbone.network, config.optimizer)
    wrapped, optimizer = fabric.setup(model, optimizer)
    state = {"model": wrapped, "optimizer": optimizer, "step": 0, "best": -math.inf}
    if continuation is not None:
        continuation.restore(state, fabric)
        continuation.record(fabric)
    elif fabric.is_global_zero:
        write_json(workdir / CONFIG_FILE, dataclasses.asdict(config), indent=2)
        write_json(workdir / MODEL_FILE, description | start.describe(), indent=2)
    writers = open_writers(
        workdir,
        total_steps=config.steps,
        start_step=state["step"],
        tensorboard=True,
        wandb="",
        mlflow="",
        is_main=fabric.is_global_zero,
    )
    run = _Run(
        config=config,
        workdir=workdir,
        data=data,
        mean=backbone.mean,
        fabric=fabric,
        lock=lock,
        model=model,
        wrapped=wrapped,
        writers=writers,
    )
    with contextlib.closing(writers), Interrupt() as interrupt:
        return run.train(optimizer, state, interrupt)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What a call of `fine_tune` has opened. `mean`: of the backbone's pixels; `wrapped`: `model` as Fabric runs it."""

    config: TransferConfig
    workdir: Path
    data: TransferData
    mean: tuple[float, ...]
    fabric: Fabric
    lock: Lock | None
    model: nn.Module
    wrapped: nn.Module
    writers: Writers

    def train(self, optimizer: Any, state: dict[str, Any], interrupt: Interrupt) -> TransferOutcome:
        """Steps, measurements and checkpoints in order."""
        config, measurement, start = self.config, None, state["step"]
        timed_from, timed_at = start, time.monotonic()  # measuring and saving are not timed
        for step, batch in enumerate(self._batches(start), start=start + 1):
            lr = set_learning_rate(optimizer, config.optimizer, step=step - 1, steps=config.steps)
            terms = self._update(optimizer, batch, step=step)
            logs = step % config.log_every == 0 or step == config.steps
            if logs:
                rate = config.batch_size * (step - timed_from) / (time.monotonic() - timed_at)
                self.writers.write(step, terms | {"lr": lr, "images_per_sec": rate} | _memory(self.fabric.device))
            else:
                self.writers.tick(step, terms)
            stop = asked_by_any(interrupt.requested(step), self.fabric)
            measures = step == config.steps or (config.measure_every and step % config.measure_every == 0)
            metrics = {}
            if measures:
                measurement = self.measure()
                metrics = dict(measurement.metrics)
                self.writers.write(step, metrics)
                log.info(
                    "step %d: %s",
                    step,
                    ", ".join(f"{name} {metrics[name]:.3f}" for name in MAIN_METRICS if name in metrics),
                )
            if stop or measures:
                self._save(state, step=step, metrics=metrics)
            if stop and step < config.steps:
                reason = interrupt.reason or "another process's request"
                log.warning("stopped at step %d by %s; saved, continue with the same command", step, reason)
                metrics = {} if measurement is None else dict(measurement.metrics)
                return TransferOutcome(step=step, finished=False, metrics=metrics)
            if logs or measures:
                timed_from, timed_at = step, time.monotonic()
        if measurement is None:  # the run was finished before
            measurement = self._known() or self.measure()
        metrics = dict(measurement.metrics)
        if self.fabric.is_global_zero:
            write_json(self.workdir / RESULT_FILE, {"step": config.steps, "metrics": metrics}, indent=2)
            data, model = self.data, self.model
            try_report(self.workdir, config, train=data.train, val=data.val, measurement=measurement, model=model)
        return TransferOutcome(step=config.steps, finished=True, metrics=metrics)

    def measure(self) -> Measurement:
        """Every process measures its share of the images to measure on; what was found is kept in the workdir."""
        val, device = self.data.val, self.fabric.device
        indices = with_progress(len(val), rank=self.fabric.global_rank, ranks=self.fabric.world_size)
        if isinstance(val, ObjectImages):
            found = gathered(detect(self.model, val, device=device, indices=indices), self.fabric)
            found.sort(key=lambda result: result["image_id"])
            masks = self.config.network.kind == "mask_rcnn"
            measurement = Measurement(metrics=average_precision(val, found, masks=masks), detections=found)
        else:
            confusion, images = classify(self.model, val, device=device, augment=self.config.augment, indices=indices)
            confusion = np.sum(gathered([confusion], self.fabric), axis=0)
            images = sorted(gathered(images, self.fabric), key=lambda image: image["index"])
            pixels = {"confusion": confusion.tolist(), "images": images}
            measurement = Measurement(metrics=mask_metrics(confusion), pixels=pixels)
        check_lock(self.lock, self.fabric)
        if self.fabric.is_global_zero:
            measurement.save(self.workdir)
        return measurement

    def _known(self) -> Measurement | None:
        """What a finished run has measured, for a report without measuring again; all of it on the first process only."""
        known = read_measurement(self.workdir, step=self.config.steps) if self.fabric.is_global_zero else None
        (metrics, *_) = gathered([None if known is None else known.metrics], self.fabric)
        return None if metrics is None else known or Measurement(metrics=metrics)

    def _batches(self, start: int) -> Any:
        config = self.config
        samples = TrainSamples(
            self.data.train,
            batch_size=config.batch_size,
            seed=config.seed,
            augment=config.augment,
            fill=self.mean,
            masks=config.network.kind == "mask_rcnn",
        )
        return batches(
            samples,
            batch_size=config.batch_size,
            start=start,
            end=config.steps,
            rank=self.fabric.global_rank,
            ranks=self.fabric.world_size,
            workers=config.data.workers,
        )

    def _update(self, optimizer: Any, batch: list[Sample], *, step: int) -> dict[str, float]:
        self.model.train()
        # What the network draws itself (boxes to learn from, sizes, dropped branches) is keyed like everything else.
        torch.manual_seed(random_seed(self.config.seed, step, self.fabric.global_rank))
        losses = self._losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        values = {name: value.detach() for name, value in ({"loss": loss} | losses).items()}
        terms = mean_over_processes(values, self.fabric)
        if not math.isfinite(terms["loss"]):
            raise UserError(
                f"step {step}: the loss is {terms['loss']}; lower config.optimizer.lr or set config.optimizer.clip_norm, and "
                "continue from the last checkpoint with the same command"
            )
        optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.config.optimizer.clip_norm:
            self.fabric.clip_gradients(self.wrapped, optimizer, max_norm=self.config.optimizer.clip_norm)
        optimizer.step()
        return terms

    def _losses(self, batch: list[Sample]) -> dict[str, torch.Tensor]:
        device = self.fabric.device
        images = [image.to(device) for image, _ in batch]
        if self.config.is_segmentation:
            if len({image.shape for image in images}) > 1:
                raise UserError(
                    "the images of a batch have different sizes; set config.augment.crop to the side of the squares to train on"
                )
            masks = torch.stack([mask for _, mask in batch]).to(device)
            return {"cross_entropy": cross_entropy(self.wrapped(torch.stack(images)), masks, ignore_index=IGNORED)}
        targets = [{name: value.to(device) for name, value in target.items()} for _, target in batch]
        return self.wrapped(images, targets)

    def _save(self, state: dict[str, Any], *, step: int, metrics: dict[str, float]) -> None:
        """Writes the newest checkpoint and, if its metric is the best so far, the best one; each replaces the one before.

        Raises:
            UserError: another run has taken the workdir over; nothing is written.
        """
        check_lock(self.lock, self.fabric)
        value = metrics.get(self.config.main_metric, -math.inf)
        is_best = value > state["best"]
        state |= {"step": step, "best": max(value, state["best"])}
        for name in ["newest", *(["best"] if is_best else [])]:
            place = self.workdir / "checkpoints" / f"{name}.ckpt"
            place.parent.mkdir(parents=True, exist_ok=True)
            self.fabric.save(place.with_suffix(".partial"), state)
            if self.fabric.is_global_zero:
                os.replace(place.with_suffix(".partial"), place)
        self.fabric.barrier()


def _memory(device: torch.device) -> dict[str, float]:
    """The most memory that tensors have had of the process's GPU, in GiB; nothing is known of other devices."""
    return {"peak_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


def _newest(workdir: Path) -> Path | None:
    place = workdir / "checkpoints" / "newest.ckpt"
    return place if place.exists() else None
