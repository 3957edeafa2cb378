"""What a step costs: FLOPs, the devices' peak, memory before the first step, and the table of parameters."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.config import Config, ParallelConfig
from flsl_jax.models import Architecture
from flsl_jax.networks import architecture_of, build_network
from flsl_jax.training.guide import GuideNetwork

# Dense (not sparse) peaks in FLOP/s of what JAX calls one device, from the makers' data sheets: bfloat16 products with
# float32 sums, float16 on V100 and T4, which have no bfloat16. TPU v2, v3 and v7x show each chip as two devices.
_PEAKS = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A40": 150e12,
    "NVIDIA A30": 165e12,
    "NVIDIA A10": 125e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA RTX A6000": 155e12,
    "NVIDIA RTX 6000 Ada Generation": 364e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 3090 Ti": 80e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense half-precision peak of one device in FLOP/s; None if it is not known, as for every CPU.

    Args:
        device_kind: `jax.Device.device_kind`, such as "NVIDIA A100-SXM4-80GB"; the longest known name with
            which it starts, up to the end of a word, is used.
    """
    matches = [name for name in _PEAKS if device_kind == name or device_kind.startswith((f"{name} ", f"{name}-"))]
    return _PEAKS[max(matches, key=len)] if matches else None


def forward_flops(
    *,
    tokens: int,
    patch_size: int,
    width: int,
    depth: int,
    mlp_ratio: int = 4,
    num_prefix: int = 0,
    channels: int = 3,
) -> int:
    """FLOPs (2 · MAC) of the backbone for one image: 2N(Cp²)D + L((8 + 4r)MD² + 4M²D) with M = N + P, for N patches, P prefix
    tokens and r hidden channels of the MLP over D."""
    m, d = tokens + num_prefix, width
    return 2 * tokens * channels * patch_size**2 * d + depth * ((8 + 4 * mlp_ratio) * m * d**2 + 4 * m**2 * d)


def _network_flops(architecture: Architecture, *, tokens: int) -> int:
    arch = architecture
    without_mlp = forward_flops(
        tokens=tokens,
        patch_size=arch.patch_size,
        width=arch.width,
        depth=arch.depth,
        mlp_ratio=0,
        num_prefix=arch.num_prefix,
        channels=arch.channels,
    )
    kernels = 3 if arch.mlp == "swiglu" else 2
    return without_mlp + arch.depth * 2 * kernels * (tokens + arch.num_prefix) * arch.width * arch.hidden


def head_flops(*, width: int, hidden: int, bottleneck: int, centroids: int) -> int:
    """FLOPs of the head for one mode."""
    return 2 * (width * hidden + hidden**2 + hidden * bottleneck + bottleneck * centroids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _StudentGroup:
    """`count` student views of an image, of `size` pixels, with `tokens` and `queries` each; `queries` go through the head."""

    count: int
    size: int
    tokens: int
    queries: int


def _student_groups(config: Config) -> list[_StudentGroup]:
    """The student views of an image by size; DINO's are the teacher's and the small ones, with one feature each."""
    views, objective = config.views, config.objective

    def group(count: int, size: int, window: int) -> _StudentGroup:
        side = size // config.model.patch_size
        queries = 1 if objective.method == "dino" else (side // window) ** 2
        return _StudentGroup(count=count, size=size, tokens=side**2, queries=queries)

    large = group(1 if views.recipe == "released" else 2, views.size, objective.query_window)
    if views.recipe == "paper":
        return [large]
    return [large, group(views.local_count, views.local_size, objective.local_query_window)]


def queries_per_image(config: Config) -> int:
    """How many features of an image the student's head sees in a step, over all views."""
    return sum(group.count * group.queries for group in _student_groups(config))


def step_flops_per_image(config: Config, *, guide: GuideNetwork | None = None) -> float:
    """FLOPs of a training step per image: teacher views once, student views three times (forward and backward), head on
    what goes through it, mean-shift, a guide's blocks on the base crop and the student views; views' pixels, losses and the
    optimizer are left out."""
    model, head, objective = config.model, config.head, config.objective
    per_row = head_flops(width=model.width, hidden=head.hidden, bottleneck=head.bottleneck, centroids=head.centroids)

    def encode(tokens: int) -> int:
        return _network_flops(architecture_of(config), tokens=tokens)

    teacher_tokens = (config.views.size // model.patch_size) ** 2
    teacher_views = 1 if config.views.recipe == "released" else 2
    total = float(teacher_views * encode(teacher_tokens))
    if objective.method == "dino":
        student = sum(group.count * 3 * (encode(group.tokens) + per_row) for group in _student_groups(config))
        return total + student + teacher_views * per_row
    for group in _student_groups(config):
        self_shift = 4 * group.queries * group.tokens * model.width
        cross_shift = 4 * group.queries * teacher_tokens * model.width
        mode_flops = group.queries * 4 * per_row
        total += group.count * (3 * encode(group.tokens) + mode_flops + 3 * self_shift + cross_shift)
        if guide is not None:
            guide_shift = 2 * group.queries * teacher_tokens * guide.architecture.width
            total += group.count * (_network_flops(guide.architecture, tokens=group.tokens) + guide_shift)
    return total if guide is None else total + _network_flops(guide.architecture, tokens=teacher_tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device.

    `state`: parameters, teacher, moments and gradients; a guide's parameters. `activations`: what the student's backbone
    keeps for the backward pass and, for the block that is being differentiated, recomputed values and current gradients.
    `logits`: those of student and teacher, with their probabilities and gradients. `pixels`: the views, as float32, while
    they are made and read; with micro-batches also the finished student views of the whole batch.
    """

    state: float
    activations: float
    logits: float
    pixels: float

    @property
    def total(self) -> float:
        return self.state + self.activations + self.logits + self.pixels


# How many copies exist at once, and what one block's backward pass needs besides what is stored (recomputed values,
# current gradients), as a share of all that the block keeps without remat. The numbers are fitted to compiled steps.
_STATE_COPIES, _LOGITS_COPIES, _PIXEL_COPIES = 5, 6, 4
_BLOCK_IN_FLIGHT = 0.9
# The share of a device's memory that an estimate may take.
_USABLE = 0.9


def estimate_memory(
    config: Config, *, parameters: int, devices: int, compute_bytes: int, guide_parameters: int = 0
) -> MemoryEstimate:
    """An estimate, made before anything is allocated or compiled, without computing anything.

    What the backbone keeps is not modelled but read from its abstract differentiation, so it follows the network's code,
    dtype and `remat`. Compiled for a CPU at 64 px, the activations were 0.90 to 1.07 times XLA's own account with scanned
    blocks in all `remat` modes, 1.04 to 1.15 times with unrolled ones and none (on a CPU remat does nothing for them); an
    accelerator's compiler may save some of it.

    Args:
        config: batch, views, network, `micro_batches`, `fsdp`.
        parameters: of backbone and head.
        devices: over which the batch is spread.
        compute_bytes: of a number in matrix products: 2 (bfloat16) or 4 (float32).
        guide_parameters: of a second stage's frozen backbone; what it computes is not kept.
    """
    images = config.batch_size / devices
    part = images / config.compute.micro_batches
    dtype = {2: "bfloat16", 4: "float32"}[compute_bytes]

    def kept(size: int, remat: str) -> int:
        # What is kept of one image depends on no other key that is tried in turn, so it is counted once.
        compute = dataclasses.replace(config.compute, dtype=dtype, remat=remat, micro_batches=1)
        return _kept_bytes_per_image(dataclasses.replace(config, compute=compute, parallel=ParallelConfig()), size=size)

    activations = pixels = 0.0
    for group in _student_groups(config):
        remat = config.compute.remat
        everything = kept(group.size, "none")
        stored = everything if remat == "none" else kept(group.size, remat)
        activations += part * group.count * (stored + _BLOCK_IN_FLIGHT * everything / config.model.depth)
        views = group.count * group.size**2 * config.data.channels
        pixels += _PIXEL_COPIES * part * views * 4
        if config.compute.micro_batches > 1:
            pixels += images * views * compute_bytes
    return MemoryEstimate(
        state=4 * (_STATE_COPIES * parameters + guide_parameters) / config.parallel.fsdp,
        activations=activations,
        logits=_LOGITS_COPIES * 4 * images * queries_per_image(config) * config.head.centroids,
        pixels=pixels,
    )


@functools.lru_cache(maxsize=32)
def _kept_bytes_per_image(config: Config, *, size: int) -> int:
    """Bytes that reverse-mode differentiation of the backbone keeps for one more image of `size` pixels."""
    graph, params = nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))).backbone, nnx.Param)

    def kept(images: int) -> int:
        pixels = jax.ShapeDtypeStruct((images, size, size, config.data.channels), jnp.float32)
        residuals = jax.eval_shape(
            lambda params, pixels: jax.vjp(lambda params: nnx.merge(graph, params)(pixels), params)[1], params, pixels
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))

    return kept(2) - kept(1)


# What makes the estimate smaller, in the order in which one would try it: the exact and cheap before what computes again.
_SMALLER: tuple[dict[str, Any], ...] = (
    {"micro_batches": 2},
    {"micro_batches": 4},
    {"micro_batches": 8},
    {"micro_batches": 8, "remat": "dots"},
    {"micro_batches": 8, "remat": "full"},
    {"micro_batches": 32, "remat": "full"},
)


def first_that_fits(config: Config, *, limit: float, **sizes: int) -> str | None:
    """The flags of the first setting whose estimate is within the limit; None if none is.

    Args:
        config: whose estimate is too large.
        limit: bytes of one device.
        sizes: the other arguments of `estimate_memory`.
    """
    devices = sizes["devices"]
    more = (devices,) if config.parallel.data < 0 else ()
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
                before = {"compute.remat": config.compute.remat, "parallel.fsdp": config.parallel.fsdp}
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


def parameter_table(params: Any) -> str:
    """A line for each group of parameters: name, number, and the shape if the group is one array."""
    rows: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(entry.key) for entry in path]
        rows.setdefault(".".join(names[:3] if "blocks" in names else names[:2]), []).append(leaf)
    counts = {name: sum(math.prod(leaf.shape) for leaf in leaves) for name, leaves in rows.items()}
    shapes = {name: str(tuple(leaves[0].shape)) if len(leaves) == 1 else "" for name, leaves in rows.items()}
    width = max(map(len, rows))
    lines = [f"  {name:<{width}}  {count:>12,}  {shapes[name]}".rstrip() for name, count in counts.items()]
    return "\n".join([*lines, f"  {'total':<{width}}  {sum(counts.values()):>12,}"])


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
