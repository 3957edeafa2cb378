"""One training step as a pure function: the method's loss, gradients, AdamW, EMA."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import NamedSharding

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.training.method import Method, MethodLoss, Metrics, in_micro_batches
from flsl_jax.training.optimizer import apply_update, clip_gradients, ema_update, is_stacked
from flsl_jax.training.schedules import StepSchedules
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, UInt8, UInt32

# (state, images, sample) -> (state, metrics); donates the state.
StepFunction = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The step's fixed parts; calling it maps (state, images, sample) to (state, metrics). Pure; see `jit_step`.

    `sample` are global sample indices: views, queries and drop path are functions of (seed, sample) alone, so they do
    not depend on the devices, processes or micro-batches that the batch is spread over. `spread`: given where parameters
    are spread over devices.
    """

    config: Config
    graph: nnx.GraphDef
    method: Method
    schedules: StepSchedules
    optimizer: optax.GradientTransformation
    freeze_last_layer_steps: int
    freeze_backbone_steps: int = 0
    spread: parallel.Spread | None = None

    def __call__(
        self, state: TrainState, images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"]
    ) -> tuple[TrainState, Metrics]:
        """One update.

        Args:
            state: the state; donated when jitted by `jit_step`.
            images: base crops, uint8 RGB.
            sample: their global sample indices.
        """
        (_, loss), grads = jax.value_and_grad(self._loss, has_aux=True)(
            state.student, state=state, images=images, sample=sample
        )
        settings, step = self.config.optimizer, state.step
        clipped = clip_gradients(grads, mode=settings.clip, max_norm=settings.clip_norm)
        direction, opt_state = self.optimizer.update(clipped.grads, state.opt_state, state.student)
        lr, weight_decay = self.schedules.lr(step), self.schedules.weight_decay(step)
        student = apply_update(
            state.student,
            direction,
            step=step,
            lr=lr,
            weight_decay=weight_decay,
            freeze_last_layer_steps=self.freeze_last_layer_steps,
            freeze_backbone_steps=self.freeze_backbone_steps,
            layer_decay=settings.layer_decay,
        )
        momentum = self.schedules.momentum(step)
        metrics = loss.metrics | {
            "grad_norm": clipped.norm,
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
        }
        new_state = dataclasses.replace(
            state,
            step=step + 1,
            student=student,
            teacher=ema_update(state.teacher, student, momentum=momentum),
            opt_state=opt_state,
            center=loss.center,
        )
        return new_state, metrics

    def _loss(
        self, student: Any, *, state: TrainState, images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"]
    ) -> tuple[Float[Array, ""], MethodLoss]:
        if self.spread is not None:
            student, state = self._whole(student), dataclasses.replace(state, teacher=self._whole(state.teacher))
        encoded = in_micro_batches(
            lambda part: self.method.prepare(state, images=part[0], sample=part[1]),
            lambda prepared: self.method.encode(student, prepared, state=state),
            (images, sample),
            parts=self.config.compute.micro_batches,
        )
        student_network, teacher_network = (nnx.merge(self.graph, params) for params in (student, state.teacher))
        loss = self.method.loss(encoded, student=student_network, teacher=teacher_network, state=state)
        return loss.total, loss

    def _whole(self, params: Any) -> Any:
        """The parameters with all but those of the blocks on every device; the blocks gather theirs one by one."""
        assert self.spread is not None
        whole = self.spread.whole
        return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if is_stacked(path) else whole(leaf), params)


def jit_step(
    step: TrainStep, *, state_sharding: TrainState, batch_sharding: NamedSharding, replicated: NamedSharding
) -> StepFunction:
    """The step compiled once: state donated, batch sharded over all devices, metrics on every device."""
    return jax.jit(
        step.__call__,
        in_shardings=(state_sharding, batch_sharding, batch_sharding),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )
