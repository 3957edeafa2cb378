"""What a step costs: FLOPs, the devices' peak, memory before the first step, and the table of parameters."""

import dataclasses
import math
from typing import Any

import jax

from flsl_jax.config import Config

# Dense bfloat16 peaks in FLOP/s by the start of `device_kind`, from the makers' data sheets.
_PEAKS = {
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA A10": 125e12,
    "Tesla V100": 125e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 peak of one device in FLOP/s; None where it is not known, as for every CPU."""
    matches = [name for name in _PEAKS if device_kind.startswith(name)]
    return _PEAKS[max(matches, key=len)] if matches else None


def forward_flops(*, tokens: int, patch_size: int, width: int, depth: int) -> int:
    """FLOPs (2 · MAC) of the backbone for one image: 2N(3p²)D + L(24ND² + 4N²D)."""
    n, d = tokens, width
    return 2 * n * 3 * patch_size**2 * d + depth * (24 * n * d**2 + 4 * n**2 * d)


def head_flops(*, width: int, hidden: int, bottleneck: int, centroids: int) -> int:
    """FLOPs of the head for one mode."""
    return 2 * (width * hidden + hidden**2 + hidden * bottleneck + bottleneck * centroids)


def step_flops_per_image(config: Config) -> float:
    """FLOPs of a training step per image: teacher views once, student views three times (forward and backward), head on
    the queries' modes, mean-shift; views' pixels, losses and the optimizer are left out."""
    model, head, views = config.model, config.head, config.views
    groups = [(views.size, 2 if views.recipe == "paper" else 1, config.objective.query_window)]
    teacher_views = groups[0][1]
    if views.recipe == "released":
        groups.append((views.local_size, 2, config.objective.local_query_window))
    per_mode = head_flops(width=model.width, hidden=head.hidden, bottleneck=head.bottleneck, centroids=head.centroids)

    def encode(size: int) -> int:
        tokens = (size // model.patch_size) ** 2
        return forward_flops(tokens=tokens, patch_size=model.patch_size, width=model.width, depth=model.depth)

    teacher_tokens = (views.size // model.patch_size) ** 2
    total = float(teacher_views * encode(views.size))
    for size, count, window in groups:
        side = size // model.patch_size
        queries = (side // window) ** 2
        self_shift, cross_shift = 4 * queries * side**2 * model.width, 4 * queries * teacher_tokens * model.width
        total += count * (3 * encode(size) + queries * 4 * per_mode + 3 * self_shift + cross_shift)
    return total


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device: `state` (parameters, teacher, moments, gradients), `activations` kept for the backward pass,
    `logits` of student and teacher with their gradients."""

    state: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.state + self.activations + self.logits


def estimate_memory(config: Config, *, parameters: int, devices: int, compute_bytes: int) -> MemoryEstimate:
    """A rough estimate, before anything is allocated.

    Five float32 copies of the parameters over `fsdp` devices (student, teacher, two moments, gradients). Activations
    per token and block: 18 D numbers without remat (inputs of the norms and products, attention's output, the MLP's
    hidden layer twice) and the attention weights where they are stored, 1 D with full remat, 11 D with "dots".
    """
    model, views = config.model, config.views
    images = config.batch_size / devices / config.compute.micro_batches
    tokens = (views.size // model.patch_size) ** 2
    student_views = 2 if views.recipe == "paper" else 1 + 2 * (views.local_size / views.size) ** 2
    kept = {"none": 18, "dots": 11, "full": 1}[config.compute.remat]
    per_token = model.depth * kept * model.width * compute_bytes
    if config.compute.attention == "xla" and config.compute.remat == "none":
        per_token += model.depth * model.num_heads * tokens * (compute_bytes + 4)
    queries = student_views * (views.size // model.patch_size // config.objective.query_window) ** 2
    return MemoryEstimate(
        state=5 * 4 * parameters / config.parallel.fsdp,
        activations=images * student_views * tokens * per_token,
        logits=4 * 4 * config.batch_size / devices * queries * config.head.centroids,
    )


def describe_memory(estimate: MemoryEstimate) -> str:
    """One line; with what to change where the device has less."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    line = (
        f"memory per device, estimated: {_gib(estimate.total)} (state {_gib(estimate.state)}, activations "
        f"{_gib(estimate.activations)}, logits {_gib(estimate.logits)})"
    )
    if limit is None:
        return line
    line += f" of {_gib(limit)}"
    if estimate.total > 0.9 * limit:
        line += "; this may not fit: raise config.compute.micro_batches, or set config.compute.remat=dots"
    return line


def parameter_table(params: Any) -> str:
    """A line for each group of parameters: name, number, shape where the group is one array."""
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
