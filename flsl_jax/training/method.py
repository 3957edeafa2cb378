"""What a method of self-supervised training gives to the step: an encoding of each image, and the loss of a batch of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp

from flsl_jax import objective
from flsl_jax.config import ObjectiveConfig
from flsl_jax.data.views import ViewRecipe, Views
from flsl_jax.models import Flsl
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, Key, UInt8, UInt32

Metrics = dict[str, Float[Array, ""]]
_T = TypeVar("_T")

# Keeps the step's draws (queries, drop path) apart from those of the views, which are keyed by (seed, sample) alone.
_STEP_STREAM = 0x5EED


@flax.struct.dataclass
class MethodLoss:
    """What a batch costs, what is reported of it, and the running mean of the teacher's logits after it."""

    total: Float[Array, ""]
    metrics: Metrics
    center: Float[Array, " K"]


@runtime_checkable
class Method(Protocol):
    """The parts of a method; all are pure.

    `prepare` and `encode` treat each image by itself and return pytrees whose leaves have the images first, so that they can
    be computed in micro-batches. `loss` sees the whole global batch.
    """

    @property
    def recipe(self) -> ViewRecipe:
        """The views that `prepare` makes."""
        ...

    def prepare(self, state: TrainState, *, images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"]) -> Any:
        """The part of `encode` that does not depend on the student: views, and what the teacher sees in them.

        Args:
            state: teacher, guide and step.
            images: base crops, uint8 RGB.
            sample: their global sample indices.
        """
        ...

    def encode(self, student: Any, prepared: Any, *, state: TrainState) -> Any:
        """All that `loss` needs of each image.

        Args:
            student: the student's parameters; gradients flow into them alone.
            prepared: of the same images and state.
            state: its step is read.
        """
        ...

    def loss(self, encoded: Any, *, student: Flsl, teacher: Flsl, state: TrainState) -> MethodLoss:
        """The loss of what was encoded, by the heads of both networks."""
        ...


def in_micro_batches(prepare: Callable[[Any], Any], encode: Callable[[Any], _T], batch: Any, *, parts: int) -> _T:
    """`encode(prepare(batch))`, computed in parts; exact if no image depends on another.

    The backward pass computes `encode` again, and keeps what it reads of what is prepared: the student's views.

    The batch axis of every leaf is sharded: image b goes to part b % parts, so that every part stays spread over all devices.
    """
    if parts == 1:
        return encode(prepare(batch))

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    def part(x: Any) -> _T:
        return jax.checkpoint(encode)(prepare(x))

    return jax.tree.map(join, jax.lax.map(part, jax.tree.map(split, batch)))


def finished_views(views: Views, *, crops: bool, dtype: Any) -> Views:
    """The views in the dtype in which networks read them, written to memory before anything reads them.

    XLA would otherwise compute parts of them in every reader.

    Args:
        views: of a batch.
        crops: whether to keep the views before augmentation.
        dtype: of teacher and student views.
    """
    return jax.lax.optimization_barrier(
        dataclasses.replace(
            views,
            teacher=views.teacher.astype(dtype),
            students=tuple(pixels.astype(dtype) for pixels in views.students),
            crops=views.crops if crops else (),
        )
    )


def sample_keys(sample: UInt32[Array, " B"], *, seed: int) -> Key[Array, " B"]:
    """A key for the step's draws of each image: a function of the seed and its global sample index alone."""
    stream = jax.random.fold_in(jax.random.key(seed), _STEP_STREAM)
    return jax.vmap(lambda index: jax.random.fold_in(stream, index))(sample)


def keys_of_group(keys: Key[Array, " B"], group: int) -> Key[Array, " B"]:
    """The images' keys for one group of views."""
    return jax.vmap(lambda key: jax.random.fold_in(key, group))(keys)


def drop_path_draws(keys: Key[Array, " B"], *, views: int, depth: int, rate: float) -> Float[Array, "B V L 2"] | None:
    """Uniform numbers that decide which branches of which block are dropped; None without drop path."""
    if rate == 0:
        return None
    return jax.vmap(lambda key: jax.random.uniform(key, (views, depth, 2)))(keys)


def encode_views(
    network: Flsl,
    pixels: Float[Array, "B V s s C"],
    *,
    draws: Float[Array, "B V L 2"] | None = None,
) -> Float[Array, "B V N D"]:
    """Tokens of all views in one pass; the batch stays the leading axis, so that its sharding is kept.

    Args:
        network: its backbone is used.
        pixels: normalised views of one size.
        draws: see `drop_path_draws`.
    """
    batch, views = pixels.shape[:2]
    flat = None if draws is None else draws.reshape(batch * views, -1, 2)
    tokens = network.backbone(pixels.reshape(batch * views, *pixels.shape[2:]), drop_path_draws=flat)
    return tokens.reshape(batch, views, -1, tokens.shape[-1])


def teacher_targets(
    logits: Float[Array, "R K"],
    settings: ObjectiveConfig,
    *,
    temp: Float[Array, ""],
    center: Float[Array, " K"],
) -> Float[Array, "R K"]:
    """The teacher's probabilities by the config's `targets` (docs/method.md, The objective, items 3 and 6)."""
    if settings.targets == "sinkhorn":
        return objective.sinkhorn_targets(logits, temp=temp, iterations=settings.sinkhorn_iterations)
    return objective.softmax_targets(logits, temp=temp, center=center if settings.targets == "centering" else None)


def next_center(
    center: Float[Array, " K"], logits: Float[Array, "R K"], settings: ObjectiveConfig
) -> Float[Array, " K"]:
    """The running mean of the teacher's logits after this batch; unchanged unless the config's `targets` read it."""
    if settings.targets != "centering":
        return center
    return objective.updated_center(center, logits, momentum=settings.center_momentum)
