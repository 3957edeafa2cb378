"""One training step as a pure function: forward pass, objective, gradients, AdamW, EMA."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding

from flsl_jax import objective
from flsl_jax.config import Config, ObjectiveConfig
from flsl_jax.training.forward import Forward
from flsl_jax.training.monitor import cluster_values, feature_values, mode_values
from flsl_jax.training.optimizer import apply_update, clip_gradients, ema_update
from flsl_jax.training.schedules import StepSchedules
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, UInt8, UInt32

Metrics = dict[str, Float[Array, ""]]

# (state, images, sample) -> (state, metrics); donates the state.
StepFunction = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The step's fixed parts; calling it maps (state, images, sample) to (state, metrics). Pure; see `jit_step`.

    `sample` are global sample indices: views, queries and drop path are functions of (seed, sample) alone, so they do
    not depend on the devices, processes or micro-batches that the batch is spread over.
    """

    config: Config
    graph: nnx.GraphDef
    forward: Forward
    schedules: StepSchedules
    optimizer: optax.GradientTransformation
    freeze_last_layer_steps: int
    freeze_backbone_steps: int = 0
    prior: Float[Array, " K"] | np.ndarray | None = None

    def __call__(
        self, state: TrainState, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"]
    ) -> tuple[TrainState, Metrics]:
        """One update.

        Args:
            state: the state; donated when jitted by `jit_step`.
            images: base crops, uint8 RGB.
            sample: their global sample indices.
        """
        (_, (metrics, center)), grads = jax.value_and_grad(self._loss, has_aux=True)(
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
        metrics |= {"grad_norm": clipped.norm, "lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        new_state = dataclasses.replace(
            state,
            step=step + 1,
            student=student,
            teacher=ema_update(state.teacher, student, momentum=momentum),
            opt_state=opt_state,
            center=center,
        )
        return new_state, metrics

    def _loss(
        self, student: Any, *, state: TrainState, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Float[Array, " K"]]]:
        settings, step = self.config.objective, state.step
        encoded = self.forward(student, state=state, images=images, sample=sample)
        queries, modes, positives = (_rows(x) for x in (encoded.queries, encoded.modes, encoded.positives))
        student_logits = nnx.merge(self.graph, student).head(modes)
        teacher_logits = jax.lax.stop_gradient(nnx.merge(self.graph, state.teacher).head(positives))
        teacher_temp = self.schedules.teacher_temp(step)
        teacher_probs = teacher_targets(teacher_logits, settings, temp=teacher_temp, center=state.center)
        weights = self.schedules.term_weights_at(step)
        loss = objective.flsl_loss(
            queries=queries,
            modes=modes,
            student_logits=student_logits,
            teacher_probs=teacher_probs,
            student_temp=settings.student_temp,
            prior=self.prior,
            **weights,
        )
        center = state.center
        if settings.targets == "centering":
            center = objective.updated_center(center, teacher_logits, momentum=settings.center_momentum)
        scheduled = {key: weight for key, weight in weights.items() if isinstance(weight, Array)}
        metrics = {"loss": loss.total, **loss.terms, "teacher_temp": teacher_temp, **scheduled}
        metrics |= cluster_values(
            student_probs=jax.nn.softmax(student_logits / settings.student_temp), teacher_probs=teacher_probs
        )
        metrics |= feature_values(encoded.tokens)
        metrics |= mode_values(
            modes=encoded.modes,
            attention_entropy=encoded.attention_entropy,
            tokens=encoded.tokens,
            inv_temp=self.schedules.self_inv_temp(step),
        )
        return loss.total, (metrics, center)


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


def _rows(x: Float[Array, "B Q D"]) -> Float[Array, "R D"]:
    return x.reshape(-1, x.shape[-1])
