"""The processes of a fine-tuning run: one, or those that torchrun starts, one for each device."""

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from flsl_jax.errors import UserError
from flsl_jax.training.keeping.lock_file import Lock, check_held, held


class _Autocast(MixedPrecision):
    """Autocast alone. Fabric would also round all that a network is given, the corners of boxes too."""

    def convert_input(self, data: Any) -> Any:
        return data


def start_fabric(*, precision: Literal["32-true", "bf16-mixed", "16-mixed"], batch_size: int) -> Fabric:
    """Fabric on the devices that torchrun gave to its processes; without torchrun, on one device.

    Raises:
        UserError: the batch cannot be divided among the processes, or a machine has fewer GPUs than processes.
    """
    ranks, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if batch_size % ranks:
        raise UserError(f"config.batch_size = {batch_size} is not divisible by {ranks} processes")
    gpus = torch.cuda.device_count()
    if 0 < gpus < local:
        raise UserError(
            f"torchrun started {local} processes on a machine with {gpus} GPUs; set --nproc_per_node={gpus}"
        )
    arithmetic: dict[str, Any] = {"precision": precision}
    if precision != "32-true":
        arithmetic = {"plugins": [_Autocast(precision, device="cuda" if gpus else "cpu")]}
    fabric = Fabric(**arithmetic, devices=local, num_nodes=ranks // local, loggers=[])
    fabric.launch()
    return fabric


def with_shared_statistics(model: nn.Module, fabric: Fabric) -> nn.Module:
    """The model with batch norms over the images of all processes; on a CPU, where PyTorch has none, of each process alone."""
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def mean_over_processes(terms: dict[str, torch.Tensor], fabric: Fabric) -> dict[str, float]:
    """The mean of each value over the processes."""
    means = over_processes(torch.stack(list(terms.values())), fabric, op="mean")
    return dict(zip(terms, means.tolist(), strict=True))


def asked_by_any(asked: bool, fabric: Fabric) -> bool:
    """Whether one of the processes asks; the same answer on all."""
    return over_processes(torch.tensor(float(asked)), fabric, op="sum").item() > 0


def locked(workdir: Path, fabric: Fabric) -> contextlib.AbstractContextManager[Lock | None]:
    """`training.lock_file.held` of the processes of a fine-tuning run.

    Raises:
        UserError: on entering it, where another run uses the workdir, or it cannot be written.
    """
    return held(workdir, is_first=fabric.is_global_zero, agreed=lambda problem: asked_by_any(problem, fabric))


def check_lock(lock: Lock | None, fabric: Fabric) -> None:
    """`Lock.check` by the first process, which has the lock; raises on all of them. All processes must call it."""
    check_held(lock, agreed=lambda problem: asked_by_any(problem, fabric))


def over_processes(values: torch.Tensor, fabric: Fabric, *, op: Literal["sum", "mean"]) -> torch.Tensor:
    """Sum or mean of values [...] over the processes, the same on all of them, on the run's device."""
    reduced = fabric.all_reduce(values.to(fabric.device), reduce_op=op)
    assert isinstance(reduced, torch.Tensor)
    return reduced


def gathered(items: list[Any], fabric: Fabric) -> list[Any]:
    """The items of all processes in one list, in the order of the processes."""
    if fabric.world_size == 1:
        return items
    parts: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]
