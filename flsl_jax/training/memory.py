"""What a step takes of one device's memory, estimated before anything is allocated or compiled, and what would make it fit."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import Config, ParallelConfig
from flsl_jax.networks import architecture_of, build_network
from flsl_jax.training.cost import queries_per_image, student_groups


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device at the moment of a step when it is fullest.

    `state`: parameters, teacher and moments; a guide's parameters; in the backward pass also gradients and parameters as
    matrix products take them. `activations`: what the student's backbone keeps for the backward pass and, for the block
    that is being differentiated, recomputed values and current gradients. `logits`: those of student and teacher, their
    probabilities and gradients. `pixels`: values of the views while they are made; with micro-batches also the finished
    student views of the whole batch.
    """

    state: float = 0.0
    activations: float = 0.0
    logits: float = 0.0
    pixels: float = 0.0

    @property
    def total(self) -> float:
        return self.state + self.activations + self.logits + self.pixels


# Counted in compiled steps at their fullest moment.
# Arrays of float32 as large as all student views, while views are made.
_VIEWS = {"tpu": 18, "gpu": 6, "cpu": 6}
# Arrays of float32 as large as the logits in the loss: student's and teacher's probabilities and a mask; compilers for others
# than TPUs do not reuse them, and let them stay until the backward pass is through the blocks, with micro-batches fewer.
_LOGITS, _LOGITS_LEFT = {"tpu": 2.25, "gpu": 4.25, "cpu": 4.25}, 2.25
# With `fsdp` a TPU sums the gradients of the head late: the gradient of the logits stays, and so many arrays of hidden values.
_HIDDEN_LEFT = 4
# What a block's backward pass needs beside the block's own values, in arrays as large as its attention weights: their
# gradient; where a TPU computes them again, and always elsewhere, scores and gradient in float32, some in two orders (fitted:
# a TPU's compiler needs 1 where images × views × heads of a device is not a multiple of 128).
_WEIGHTS, _WEIGHTS_AGAIN = {"tpu": 1, "gpu": 4, "cpu": 0}, {"tpu": 3.5, "gpu": 4, "cpu": 0}
# The share of a device's memory that an estimate may take.
_USABLE = 0.9


def estimate_memory(
    config: Config,
    *,
    parameters: int,
    devices: int,
    compute_bytes: int,
    platform: str,
    slices: int = 1,
    guide_parameters: int = 0,
) -> MemoryEstimate:
    """The fullest of three moments: while views are made, in the loss, and in the last block's backward pass.

    What the backbone keeps is not modelled but read from its abstract differentiation, so it follows the network's code,
    dtype and `remat`. docs/scale.md compares the estimate with what compilers say.

    Args:
        config: batch, views, network, `compute` without "auto", `fsdp`.
        parameters: of backbone and head.
        devices: over which the batch is spread.
        compute_bytes: of a number in matrix products: 2 (bfloat16) or 4 (float32).
        platform: "tpu", whose arrays are padded to whole tiles, "gpu" or "cpu".
        slices: of TPUs, joined by a slower network.
        guide_parameters: of a second stage's frozen backbone; what it computes is not kept.
    """
    images, fsdp = config.batch_size / devices, config.parallel.fsdp
    whole, tpu = config.compute.micro_batches == 1, platform == "tpu"
    part = images / config.compute.micro_batches
    student = _student_bytes(config, compute_bytes=compute_bytes, platform=platform)
    state = 4 * (4 * parameters + guide_parameters) / fsdp
    # With micro-batches the gradients of a part are there beside their sums; a GPU has those of unrolled blocks later.
    gradients = 4 * parameters * ((not whole) + (platform != "gpu" or config.compute.scan_blocks != "unroll")) / fsdp
    cast = compute_bytes * parameters / fsdp if compute_bytes < 4 else 0.0
    logits = 4 * images * queries_per_image(config) * config.head.centroids
    hidden = compute_bytes * images * queries_per_image(config) * config.head.hidden
    if tpu:
        left = logits + _HIDDEN_LEFT * hidden if fsdp > 1 else 0.0
    else:
        left = (_LOGITS[platform] if whole else _LOGITS_LEFT) * logits
    finished = 0.0 if whole else images * _pixels(config) * compute_bytes
    # Where a TPU's step waits for other devices, XLA sets the loops' arrays aside before views are made (S/16 has it, not
    # every network); with `fsdp` more of a block is there at once.
    early = tpu and whole and (fsdp > 1 or slices > 1)
    in_flight = student.in_flight + (student.block if tpu and fsdp > 1 else 0.0)
    kept = part * student.kept
    making = MemoryEstimate(state=state, activations=kept if early else 0.0, pixels=part * student.views + finished)
    loss = MemoryEstimate(
        state=state + cast, activations=kept if whole else 0.0, logits=_LOGITS[platform] * logits, pixels=finished
    )
    backward = MemoryEstimate(
        state=state + gradients + cast, activations=kept + part * in_flight, logits=left, pixels=finished
    )
    return max(making, loss, backward, key=lambda moment: moment.total)


# What makes the estimate smaller, in the order in which one would try it: the exact and cheap before what computes again.
_SMALLER: tuple[dict[str, Any], ...] = (
    {"micro_batches": 2},
    {"micro_batches": 4},
    {"micro_batches": 8},
    {"micro_batches": 8, "remat": "dots", "scan_blocks": "scan"},
    {"micro_batches": 8, "remat": "full", "scan_blocks": "scan"},
    {"micro_batches": 32, "remat": "full", "scan_blocks": "scan"},
)


def first_that_fits(config: Config, *, limit: float, **sizes: Any) -> str | None:
    """The flags of the first setting whose estimate is within the limit; None if none is.

    Args:
        config: whose estimate is too large.
        limit: bytes of one device.
        sizes: the other arguments of `estimate_memory`.
    """
    devices = sizes["devices"]
    # Parameters are never spread over slices.
    more = (devices // sizes.get("slices", 1),) if config.parallel.data < 0 else ()
    for own_fsdp in dict.fromkeys((config.parallel.fsdp, *more)):
        for changes in _SMALLER:
            parts = max(changes["micro_batches"], config.compute.micro_batches)
            if config.batch_size % (devices * parts):
                continue
            compute = dataclasses.replace(config.compute, **{**changes, "micro_batches": parts})
            parallel = dataclasses.replace(config.parallel, fsdp=own_fsdp)
            changed = dataclasses.replace(config, compute=compute, parallel=parallel)
            if estimate_memory(changed, **sizes).total <= limit:
                keys = {f"compute.{key}": getattr(compute, key) for key in changes} | {"parallel.fsdp": own_fsdp}
                before = {f"compute.{key}": getattr(config.compute, key) for key in changes}
                before["parallel.fsdp"] = config.parallel.fsdp
                return " ".join(f"--config.{key}={value}" for key, value in keys.items() if before.get(key) != value)
    return None


def describe_memory(
    estimate: MemoryEstimate, *, limit: float | None = None, smaller: Callable[[float], str | None]
) -> str:
    """The estimate in one line, with what to change if the device has less.

    Args:
        estimate: of one device.
        limit: bytes of one device; None where it does not say.
        smaller: from the bytes that may be taken to the flags with which the estimate is within them.
    """
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in dataclasses.asdict(estimate).items())
    line = f"memory per device, estimated: {_gib(estimate.total)} ({parts})"
    if limit is None:
        return line
    line += f" of {_gib(limit)}"
    if estimate.total > usable(limit):
        line += f"; this may not fit. {memory_advice(limit, smaller=smaller)}"
    return line


def usable(limit: float) -> float:
    """Which part of a device's bytes an estimate may take."""
    return _USABLE * limit


def memory_advice(limit: float, *, smaller: Callable[[float], str | None]) -> str:
    """What to change where a device has too few bytes; `smaller` as in `describe_memory`."""
    flags = smaller(usable(limit))
    return f"What would: {flags}" if flags else "Take more devices or a smaller batch"


def device_memory() -> float | None:
    """Bytes of the first of this process's devices; None where it does not say, as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StudentBytes:
    """What the student views of one image take.

    `kept` for the backward pass; `in_flight` while one block is differentiated, beside what is kept; `block`: of it the
    block's own values without attention weights; `views`: while they are made.
    """

    kept: float
    in_flight: float
    block: float
    views: float


def _student_bytes(config: Config, *, compute_bytes: int, platform: str) -> _StudentBytes:
    compute, model, tpu = config.compute, config.model, platform == "tpu"
    dtype = {2: "bfloat16", 4: "float32"}[compute_bytes]
    own_attention, again = compute.attention != "cudnn", compute.remat != "none"
    unrolled_on_gpu = platform == "gpu" and compute.scan_blocks == "unroll"

    def kept(size: int, remat: str) -> float:
        # What is kept of one image depends on no other key that is tried in turn, so it is counted once.
        changed = dataclasses.replace(compute, dtype=dtype, remat=remat, micro_batches=1)
        one = dataclasses.replace(config, compute=changed, parallel=ParallelConfig())
        return _kept_bytes_per_image(one, size=size, padded=tpu)

    kept_bytes = in_flight = own = views = 0.0
    for group in student_groups(config):
        architecture = architecture_of(config)
        tokens = group.tokens + architecture.num_prefix
        weights = own_attention * model.num_heads * _bytes((tokens, tokens), compute_bytes, padded=tpu)
        everything = kept(group.size, "none")
        stored = kept(group.size, compute.remat) if again else everything
        if unrolled_on_gpu and again:
            # XLA puts off the gradients of the products' weights, for which it holds the products' inputs and gradients.
            held = tokens * compute_bytes * (8 * model.width + 2 * architecture.hidden)
            stored = max(stored, model.depth * held)
        elif unrolled_on_gpu and own_attention:
            # Scores and result of attention stay in float32 too.
            stored += model.depth * 4 * (model.num_heads * tokens**2 + tokens * model.width)
        block = everything / model.depth
        kept_bytes += group.count * stored
        in_flight += group.count * (block + weights * (_WEIGHTS_AGAIN if again else _WEIGHTS)[platform])
        own += group.count * (block - weights)
        views += group.count * _VIEWS[platform] * _bytes((config.data.channels, group.size, group.size), 4, padded=tpu)
    return _StudentBytes(kept=kept_bytes, in_flight=in_flight, block=own, views=views)


def _pixels(config: Config) -> int:
    """Numbers in all student views of an image."""
    return sum(group.count * group.size**2 for group in student_groups(config)) * config.data.channels


@functools.lru_cache(maxsize=32)
def _kept_bytes_per_image(config: Config, *, size: int, padded: bool) -> float:
    """Bytes that reverse-mode differentiation of the backbone keeps for one more image of `size` pixels."""
    graph, params = nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))).backbone, nnx.Param)

    def kept(images: int) -> int:
        pixels = jax.ShapeDtypeStruct((images, size, size, config.data.channels), jnp.float32)
        residuals = jax.eval_shape(
            lambda params, pixels: jax.vjp(lambda params: nnx.merge(graph, params)(pixels), params)[1], params, pixels
        )
        return sum(_bytes(leaf.shape, leaf.dtype.itemsize, padded=padded) for leaf in jax.tree.leaves(residuals))

    # Eight images, so that their tokens fill whole tiles.
    return (kept(16) - kept(8)) / 8


def _bytes(shape: tuple[int, ...], itemsize: int, *, padded: bool) -> int:
    """Bytes of an array; `padded`: in a TPU's tiles of 8 × 128, which hold its last two axes in the order that takes less."""
    lengths = [length for length in shape if length > 1]
    if padded and len(lengths) > 1:
        *_, rows, columns = lengths
        tiled = min(_up(rows, 8) * _up(columns, 128), _up(columns, 8) * _up(rows, 128))
        return math.prod(lengths[:-2]) * tiled * itemsize
    return math.prod(lengths) * itemsize


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
