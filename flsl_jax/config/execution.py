"""How a run is carried out, saved and reported: speed, memory, devices, checkpoints, logs; not what it learns."""

import dataclasses
from typing import Annotated, Literal

from flsl_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Speed and memory only; the numbers stay the same up to rounding.

    Attributes:
        dtype: what matrix products compute in; "auto": bfloat16 on accelerators and float32 on a CPU.
        scan_blocks: whether the blocks are one loop or written out; "auto": a loop on TPU, and everywhere with `remat`, which
            saves little memory without it; written out otherwise.
        attention: whose attention: ours, "xla", or cuDNN's, which is faster on NVIDIA GPUs since Ampere and takes less memory;
            "auto": cuDNN's where a test at the start of the run says that it computes what ours does, ours otherwise.
        remat: what the backward pass computes again instead of keeping it: nothing, all but matrix products, or every block.
        micro_batches: parts in which the batch is encoded; exact, as the loss is still that of the whole batch.
        workers: processes that decode images.
        loader_timeout_seconds: a worker that reads no new image for so long while the step waits for it is started again, with
            the stacks of its threads in the log; without workers, the run ends then.
        prefetch: batches that are made ready ahead of the step.
        compile_cache: a folder that keeps what was compiled for the next run; "": off.
    """

    dtype: Literal["auto", "float32", "bfloat16"]
    scan_blocks: Literal["auto", "scan", "unroll"]
    attention: Literal["auto", "xla", "cudnn"]
    remat: Literal["none", "dots", "full"]
    micro_batches: Annotated[int, Range(1, unit="parts of the batch")]
    workers: Annotated[int, Range(0, unit="processes; 0: in the training process")]
    loader_timeout_seconds: Annotated[float, Range(0, unit="seconds; 0: wait for ever")] = 300.0
    prefetch: Annotated[int, Range(1, unit="batches")]
    compile_cache: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The device mesh (`data` × `fsdp`) and how several processes find each other.

    With `distributed`, an empty `coordinator` and -1 are detected from the cluster (SLURM, TPU pod, Open MPI).

    Attributes:
        data: groups of devices, each with its share of the batch.
        fsdp: devices of a group, over which parameters, teacher and optimizer state are spread.
        distributed: whether several processes train together.
        coordinator: host:port of process 0.
        num_processes: how many processes the run has.
        process_id: the number of this process, from 0.
        timeout_seconds: how long a process waits for the others at the start; then it says who is missing, and ends.
    """

    data: Annotated[int, Range(1, also=-1, unit="devices; -1: all that are left")] = -1
    fsdp: Annotated[int, Range(1, unit="devices")] = 1
    distributed: bool = False
    coordinator: str = ""
    num_processes: Annotated[int, Range(1, also=-1, unit="processes; -1: detected")] = -1
    process_id: Annotated[int, Range(0, also=-1, unit="number of this process; -1: detected")] = -1
    timeout_seconds: Annotated[int, Range(1, unit="seconds")] = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When state is saved: besides `every_epochs`, on SIGTERM, SIGUSR1, SIGHUP and SIGINT, at `max_hours` and at the end.

    Attributes:
        every_epochs: how often state is saved.
        keep: the newest so many are kept.
        keep_best: whether the best by `evaluation.best_metric` is kept too.
        max_hours: after so long the run saves and ends, with exit code 75.
        give_up_minutes: how long saving may fail, on a full disk for example, while training goes on and it is tried again.
        mirror: a folder in an object store, such as gs://BUCKET/runs/mine or s3://BUCKET/runs/mine, that gets a copy of the
            workdir after each checkpoint, and from which a run goes on whose workdir is gone; "": none.
    """

    every_epochs: Annotated[float, Range(0, above=True, unit="epochs")]
    keep: Annotated[int, Range(1, unit="checkpoints")]
    keep_best: bool
    max_hours: Annotated[float, Range(0, unit="hours; 0: no limit")]
    give_up_minutes: Annotated[float, Range(0, unit="minutes; 0: the first failure ends the run")] = 60.0
    mirror: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where lines of metrics go besides `metrics.jsonl`, and how often; see docs/logging.md.

    Attributes:
        every_steps: how often a line is written.
        tensorboard: whether TensorBoard events are written, to the workdir's folder `tensorboard`.
        wandb: the project of Weights & Biases; "": none.
        mlflow: the experiment of MLflow; "": none.
        prometheus: whether the newest values are written to `metrics.prom` in the workdir, for Prometheus's node exporter.
        watchdog_minutes: without the end of a step, after which what every thread does is written to the workdir; 0: never.
    """

    every_steps: Annotated[int, Range(1, unit="steps")]
    tensorboard: bool
    wandb: str
    mlflow: str = ""
    prometheus: bool = False
    watchdog_minutes: Annotated[float, Range(0.0, unit="minutes")] = 10.0
