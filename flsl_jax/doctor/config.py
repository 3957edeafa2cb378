"""A config on this machine: whether its values fit together, divide, fit into memory, and are what is usually meant."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from flsl_jax import parallel
from flsl_jax.config import Config, advice
from flsl_jax.doctor.finding import Examination, Finding
from flsl_jax.doctor.machine import free_memory
from flsl_jax.training import cost, memory
from flsl_jax.training.guide import open_guide
from flsl_jax.training.setup import Training, build_training, memory_sizes
from flsl_jax.training.watching.alarms import Thresholds, sharpness_at_start
from flsl_jax.weights.initial import read_initial

_KEYS = "docs/config.md says what each key takes"
# The paper's Table 11 ends with so many images a step, and has its best numbers from the first to the second of these on.
_LARGEST_BATCH, _LEAST_GOOD, _BEST = 2048, 256, 512


def examine(exam: Examination, config: Config, *, begins: bool) -> Training | None:
    """Checks a config, and returns what a training with it would run, with one step an epoch; None if it cannot be built.

    Args:
        exam: is told what is found.
        config: a checked configuration.
        begins: whether a new run would begin, which reads `init_from`.
    """
    exam.check("config/values", lambda: _values(config), advice=_KEYS)
    exam.check("config/devices", lambda: _devices(config), advice="set config.parallel for the devices of this machine")
    exam.check("config/mean-shift", lambda: _mean_shift(config), advice=_KEYS)
    exam.check("config/batch", lambda: _batch(config), advice="docs/planning.md has a section on the learning rate")
    if begins and config.init_from:
        exam.check(
            "config/init_from", lambda: _initial(config), advice="name a run or a weight file in config.init_from"
        )
    training = exam.obtain("config/network", lambda: _build(config), advice=_KEYS)
    if training is not None:
        exam.check("config/memory", lambda: _memory(config, training), advice="docs/planning.md says what takes memory")
    return training


def device_count(config: Config) -> int:
    """Devices of all processes that the config speaks of, if each has as many as this one."""
    processes = config.parallel.num_processes if config.parallel.distributed else 1
    return len(jax.local_devices()) * max(1, processes)


def _values(config: Config) -> Iterator[Finding]:
    model = config.model
    yield Finding(
        name="config/values",
        colour="green",
        found=f"all in their ranges: ViT of {model.depth} blocks, width {model.width}, patches of {model.patch_size} px, views "
        f"of {config.views.size} px; {config.epochs} epochs in batches of {config.batch_size}",
    )
    for line in advice(config):
        found, _, told = line.partition("; ")
        yield Finding(name="config/values", colour="yellow", found=found, advice=told or _KEYS)


def _devices(config: Config) -> Finding:
    count = device_count(config)
    if not config.parallel.distributed:
        sharding = parallel.batch_sharding(parallel.make_mesh(config.parallel))
        parallel.check_batch(sharding, batch_size=config.batch_size)
    elif config.batch_size % count:
        return Finding(
            name="config/devices",
            colour="red",
            found=f"config.batch_size = {config.batch_size} is not divisible by {count} devices, if every process has as many "
            "as this one",
            advice=f"take a multiple of {count}",
        )
    each, parts = config.batch_size // count, config.compute.micro_batches
    found = f"{each} images on each of {count} device{'s' if count > 1 else ''}" + (
        f", in {parts} parts" if parts > 1 else ""
    )
    if each % parts:
        return Finding(
            name="config/devices",
            colour="yellow",
            found=f"{found}, which the devices cannot share evenly",
            advice=f"choose config.compute.micro_batches so that it divides {each}",
        )
    return Finding(name="config/devices", colour="green", found=found)


def _mean_shift(config: Config) -> Iterator[Finding]:
    """The monitor's own advice on the temperature, for tokens as they are before the first step."""
    if config.objective.method != "flsl":
        return
    limits = Thresholds()
    sharpness = sharpness_at_start(config, limits=limits)
    found = f"τ‖z‖² begins at {sharpness.value:.3g} for width {config.model.width} (the paper's {sharpness.paper:g})"
    if not sharpness.kind:
        yield Finding(name="config/mean-shift", colour="green", found=found)
        return
    meaning, bound = {
        "soft": ("so soft that a mode may be the mean of its view", f"below {limits.soft_inv_temp:g}"),
        "hard": ("so sharp that a mode is hardly more than its own token", f"above {limits.hard_inv_temp:g}"),
    }[sharpness.kind]
    told = f"{sharpness.advice}; or leave it if it is meant so: the monitor watches it (docs/monitor.md)"
    yield Finding(name="config/mean-shift", colour="yellow", found=f"{found}: {bound}, {meaning}", advice=told)


def _batch(config: Config) -> Finding:
    name, batch, queries = "config/batch", config.batch_size, config.batch_size * cost.queries_per_image(config)
    rate = config.optimizer.lr * batch / 256
    found = f"{batch} images give a largest learning rate of {rate:.3g} and {queries:,} queries a step"
    centroids = config.head.centroids
    if queries < centroids:
        return Finding(
            name=name,
            colour="yellow",
            found=f"{found}, fewer than the {centroids:,} centroids, which the volume term wants all used in every step",
            advice="raise config.batch_size (config.compute.micro_batches makes it fit into memory) or lower "
            "config.head.centroids",
        )
    if batch > _LARGEST_BATCH:
        return Finding(
            name=name,
            colour="yellow",
            found=f"{found}; nobody has reported more than {_LARGEST_BATCH:,} images a step",
            advice=f"the paper's k-NN is best from {_BEST} to 1,024 images; with more, watch the first epochs, and lower "
            "config.optimizer.lr if the loss jumps (docs/planning.md)",
        )
    return Finding(name=name, colour="green", found=found + _small(config))


def _small(config: Config) -> str:
    if config.batch_size >= _LEAST_GOOD:
        return ""
    return f" (on ImageNet the paper's k-NN gains up to {_LEAST_GOOD} images a step and little after)"


def _initial(config: Config) -> Finding:
    report = read_initial(config).report.splitlines()[0]
    return Finding(name="config/init_from", colour="green", found=report)


def _build(config: Config) -> Training:
    one = dataclasses.replace(config, parallel=type(config.parallel)())
    return build_training(one, mesh=parallel.make_mesh(one.parallel), steps_per_epoch=1, guide=open_guide(config))


def _memory(config: Config, training: Training) -> Finding:
    """The estimate that training prints, against the device's memory; a CPU's is the host's that is free."""
    name, sizes = "config/memory", memory_sizes(training, devices=device_count(config))
    settled = dataclasses.replace(config, compute=training.pure_step.config.compute)
    estimate = memory.estimate_memory(settled, **sizes)
    limit, whose = memory.device_memory(), "are this device's"
    if limit is None and jax.default_backend() == "cpu":
        limit, whose = float(free_memory()[0]) / len(jax.local_devices()), "of the host's memory are free"

    def smaller(most: float) -> str | None:
        return memory.first_that_fits(settled, limit=most, **sizes)

    line = memory.describe_memory(estimate, smaller=smaller)
    if limit is None:
        return Finding(name=name, colour="green", found=f"{line}; this device does not say how much it has")
    found = f"{line}; {limit / 2**30:.2f} GiB {whose}"
    if estimate.total <= memory.usable(limit):
        return Finding(name=name, colour="green", found=found)
    colour = "red" if estimate.total > limit else "yellow"
    return Finding(name=name, colour=colour, found=found, advice=memory.memory_advice(limit, smaller=smaller))


def checkpoint_bytes(training: Training) -> int:
    """Of the arrays in one checkpoint."""
    leaves: list[Any] = jax.tree.leaves(training.abstract_state.changing())
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
