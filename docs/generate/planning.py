"""The tables of docs/planning.md: from the cost model of the package, and from what benchmarks/README.md has measured."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
from flax import nnx

from docs.generate.text import table
from flsl_jax.config import Config, parse_config
from flsl_jax.config.files import load_config
from flsl_jax.networks import build_network, for_backend
from flsl_jax.training import cost, memory

_IMAGENET = 1_281_167
_DAY = 24 * 3600
# The configs of the tables, those for ImageNet first.
_CONFIGS = (
    "vits16",
    "vits8",
    "vitb16",
    "released_vits16",
    "dino_vits16",
    "posttrain_vits14",
    "textures",
    "tiny_imagenet",
)
_PAPER = ("vits16", "vits8", "vitb16")
_BATCHES = (256, 512, 1024, 2048)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measurement of benchmarks/README.md, "One GPU": training steps with cuDNN attention and unrolled blocks on one H200.

    `batch`: images a step. `rate`: images/s. `peak`: GiB. `plain`: GiB with our attention.
    """

    batch: int
    rate: int
    peak: float
    plain: float


MEASURED = {
    "vits16": Measured(64, 2747, 4.6, 7.0),
    "vits8": Measured(32, 695, 8.6, 25.3),
    "vitb16": Measured(64, 1253, 9.3, 14.1),
}


def costs() -> str:
    """What a run of each config computes, and the memory that is estimated for it."""
    header = (
        "config",
        "batch",
        "parameters",
        "GFLOP an image",
        "memory on 1 GPU",
        "on each of 8",
        "on each of 8, `micro_batches=4`",
        "on each of 8 TPUs",
        "on each of 8 TPUs, `micro_batches=4`",
    )
    return table(header, [_costs_row(name) for name in _CONFIGS])


def _costs_row(name: str) -> Sequence[str]:
    config = config_of(name)
    gib = [
        memory_gib(config),
        *(
            memory_gib(config, platform=platform, devices=8, micro_batches=parts)
            for platform in ("gpu", "tpu")
            for parts in (1, 4)
        ),
    ]
    return (
        f"`{name}`",
        str(config.batch_size),
        f"{parameters(config) / 1e6:.1f} M",
        f"{cost.step_flops_per_image(config) / 1e9:.2f}",
        *(f"{size:.3g} GiB" for size in gib),
    )


def times() -> str:
    """The paper's runs at the measured rate of one GPU."""
    header = (
        "config",
        "images/s on one H200, measured",
        "at images a step",
        "300 epochs of ImageNet-1k on it, estimated",
        "8 of them, at best",
        "peak memory, measured",
        "the same with our attention: measured when it kept its weights twice; estimated as it is now",
    )
    return table(header, [_times_row(name) for name in _PAPER])


def _times_row(name: str) -> Sequence[str]:
    config, measured = config_of(name), MEASURED[name]
    seconds = config.epochs * _IMAGENET / measured.rate
    estimate = memory_gib(config, devices=config.batch_size // measured.batch)
    return (
        f"`{name}`",
        f"{measured.rate:,}",
        str(measured.batch),
        f"{seconds / _DAY:.2g} days",
        f"{seconds / 8 / 3600:.2g} hours",
        f"{measured.peak} GiB",
        f"{measured.plain}; {estimate:.1f} GiB",
    )


def learning_rates() -> str:
    """The largest learning rate of `vits16` with other batches, and what the paper found with them."""
    config = config_of("vits16")
    steps = {batch: _IMAGENET // batch for batch in _BATCHES}
    rows = [
        ("`optimizer.lr`", *(f"{config.optimizer.lr:g}" for _ in _BATCHES)),
        ("largest learning rate of the run", *(f"{config.optimizer.lr * batch / 256:g}" for batch in _BATCHES)),
        ("steps an epoch of ImageNet-1k", *(f"{steps[batch]:,}" for batch in _BATCHES)),
        ("steps of 300 epochs", *(f"{300 * steps[batch]:,}" for batch in _BATCHES)),
    ]
    return table(("`batch_size`", *map(str, _BATCHES)), rows)


def config_of(name: str) -> Config:
    """A config that comes with the package."""
    return parse_config(load_config(name).to_dict())


def parameters(config: Config) -> int:
    """The number of parameters of backbone and head."""
    network = nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


@functools.cache
def memory_gib(config: Config, *, platform: str = "gpu", devices: int = 1, micro_batches: int = 1) -> float:
    """GiB of one of so many accelerators, which compute in bfloat16 with our attention."""
    config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, micro_batches=micro_batches))
    estimate = memory.estimate_memory(
        for_backend(config, platform),
        parameters=parameters(config),
        devices=devices,
        compute_bytes=2,
        platform=platform,
    )
    return estimate.total / 2**30
