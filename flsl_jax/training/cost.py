"""What a step costs: FLOPs, the devices' peak, and the table of parameters."""

import dataclasses
import math
from typing import Any

import jax

from flsl_jax.config import Config
from flsl_jax.models import Architecture
from flsl_jax.networks import architecture_of
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
class StudentGroup:
    """`count` student views of an image, of `size` pixels, with `tokens` and `queries` each; `queries` go through the head."""

    count: int
    size: int
    tokens: int
    queries: int


def student_groups(config: Config) -> list[StudentGroup]:
    """The student views of an image by size; DINO's are the teacher's and the small ones, with one feature each."""
    views, objective = config.views, config.objective

    def group(count: int, size: int, window: int) -> StudentGroup:
        side = size // config.model.patch_size
        queries = 1 if objective.method == "dino" else (side // window) ** 2
        return StudentGroup(count=count, size=size, tokens=side**2, queries=queries)

    large = group(1 if views.recipe == "released" else 2, views.size, objective.query_window)
    if views.recipe == "paper":
        return [large]
    return [large, group(views.local_count, views.local_size, objective.local_query_window)]


def queries_per_image(config: Config) -> int:
    """How many features of an image the student's head sees in a step, over all views."""
    return sum(group.count * group.queries for group in student_groups(config))


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
        student = sum(group.count * 3 * (encode(group.tokens) + per_row) for group in student_groups(config))
        return total + student + teacher_views * per_row
    for group in student_groups(config):
        self_shift = 4 * group.queries * group.tokens * model.width
        cross_shift = 4 * group.queries * teacher_tokens * model.width
        mode_flops = group.queries * 4 * per_row
        total += group.count * (3 * encode(group.tokens) + mode_flops + 3 * self_shift + cross_shift)
        if guide is not None:
            guide_shift = 2 * group.queries * teacher_tokens * guide.architecture.width
            total += group.count * (_network_flops(guide.architecture, tokens=group.tokens) + guide_shift)
    return total if guide is None else total + _network_flops(guide.architecture, tokens=teacher_tokens)


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
