"""One training step as a pure function: views, both encoders, objective, gradients, AdamW, EMA."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flsl_jax import objective
from flsl_jax.config import Config, ObjectiveConfig, ScheduleConfig
from flsl_jax.data.views import StudentViews, ViewRecipe, make_views
from flsl_jax.models import Flsl
from flsl_jax.schedules import Schedule
from flsl_jax.training.monitor import monitor_values
from flsl_jax.training.optimizer import apply_update, clip_gradients, ema_update
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, Key, PRNGKeyArray, UInt8, UInt32

Metrics = dict[str, Float[Array, ""]]
# Keeps the step's draws (queries, drop path) apart from those of the views, which are keyed by (seed, sample) alone.
_STEP_STREAM = 0x5EED


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSchedules:
    """Every value that changes with the step."""

    lr: Schedule
    weight_decay: Schedule
    momentum: Schedule
    teacher_temp: Schedule
    self_inv_temp: Schedule
    cross_inv_temp: Schedule
    intra_weight: Schedule
    projected_weight: Schedule


def make_schedules(config: Config, *, steps_per_epoch: int) -> StepSchedules:
    """Schedules in steps from the config's epochs; the learning rate scales with the batch size (per 256 images)."""
    total = config.epochs * steps_per_epoch

    def schedule(values: ScheduleConfig) -> Schedule:
        steps = round(values.epochs * steps_per_epoch) or total
        return Schedule(kind=values.kind, start=values.start, end=values.end, steps=steps)

    return StepSchedules(
        lr=Schedule(
            kind="cosine",
            start=config.optimizer.lr * config.batch_size / 256,
            end=config.optimizer.final_lr,
            steps=total,
            warmup_steps=round(config.optimizer.warmup_epochs * steps_per_epoch),
        ),
        weight_decay=schedule(config.optimizer.weight_decay),
        momentum=schedule(config.teacher.momentum),
        teacher_temp=schedule(config.objective.teacher_temp),
        self_inv_temp=schedule(config.objective.self_inv_temp),
        cross_inv_temp=schedule(config.objective.cross_inv_temp),
        intra_weight=schedule(config.objective.intra_weight),
        projected_weight=schedule(config.objective.projected_weight),
    )


@flax.struct.dataclass
class Encoded:
    """What the objective needs of each image; all that crosses from encoding in micro-batches to the loss.

    Q counts the queries of all student views of an image. `tokens` are those of the first one, for the monitor.
    Micro-batches that are not joined yet have a leading axis.
    """

    queries: Float[Array, "*part B Q D"]
    modes: Float[Array, "*part B Q D"]
    positives: Float[Array, "*part B Q D"]
    attention_entropy: Float[Array, "*part B Q"]
    tokens: Float[Array, "*part B N D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStep:
    """The step's fixed parts; calling it maps (state, images, sample) to (state, metrics). Pure; see `jit_step`.

    `sample` are global sample indices: views, queries and drop path are functions of (seed, sample) alone, so they do
    not depend on the devices, processes or micro-batches that the batch is spread over.
    """

    config: Config
    graph: nnx.GraphDef
    recipe: ViewRecipe
    schedules: StepSchedules
    optimizer: optax.GradientTransformation
    freeze_last_layer_steps: int
    freeze_backbone_steps: int = 0
    prior: Float[Array, " K"] | None = None

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
        )
        momentum = self.schedules.momentum(step)
        metrics |= {"grad_norm": clipped.norm, "lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        new_state = TrainState(
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
        encoded = self._encode_in_parts(student, state.teacher, images, sample, step)
        queries, modes, positives = (_rows(x) for x in (encoded.queries, encoded.modes, encoded.positives))
        student_logits = nnx.merge(self.graph, student).head(modes)
        teacher_logits = jax.lax.stop_gradient(nnx.merge(self.graph, state.teacher).head(positives))
        teacher_temp = self.schedules.teacher_temp(step)
        teacher_probs = teacher_targets(teacher_logits, settings, temp=teacher_temp, center=state.center)
        intra_weight = self.schedules.intra_weight(step)
        loss = objective.flsl_loss(
            queries=queries,
            modes=modes,
            student_logits=student_logits,
            teacher_probs=teacher_probs,
            student_temp=settings.student_temp,
            intra_weight=intra_weight,
            inter_weight=settings.inter_weight,
            volume_weight=settings.volume_weight,
            prior=self.prior,
        )
        center = state.center
        if settings.targets == "centering":
            center = objective.updated_center(center, teacher_logits, momentum=settings.center_momentum)
        metrics = {
            "loss": loss.total,
            "intra": loss.intra,
            "inter": loss.inter,
            "volume": loss.volume,
            "teacher_temp": teacher_temp,
            "intra_weight": intra_weight,
        } | monitor_values(
            student_probs=jax.nn.softmax(student_logits / settings.student_temp),
            teacher_probs=teacher_probs,
            tokens=encoded.tokens,
            modes=encoded.modes,
            attention_entropy=encoded.attention_entropy,
        )
        return loss.total, (metrics, center)

    def _encode_in_parts(
        self, student: Any, teacher: Any, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"], step: Array
    ) -> Encoded:
        """Encodes in micro-batches that are recomputed in the backward pass; exact, as no image sees another here."""
        parts = self.config.compute.micro_batches
        if parts == 1:
            return self._encode(student, teacher, images, sample, step)

        # The batch axis is sharded: image b goes to part b % parts, so that every part stays spread over all devices.
        def split(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

        def join(x: Array) -> Array:
            return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        encode = jax.checkpoint(lambda part: self._encode(student, teacher, part[0], part[1], step))
        return jax.tree.map(join, jax.lax.map(encode, (split(images), split(sample))))

    def _encode(
        self, student: Any, teacher: Any, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"], step: Array
    ) -> Encoded:
        """From base crops to queries and modes; each image by itself."""
        seed = self.config.seed
        # Views are finished before anything reads them: XLA would otherwise compute parts of them in every reader.
        views = jax.lax.optimization_barrier(make_views(images, sample, seed=seed, recipe=self.recipe))
        stream = jax.random.fold_in(jax.random.key(seed), _STEP_STREAM)
        keys = jax.vmap(lambda index: jax.random.fold_in(stream, index))(sample)
        student_network, teacher_network = nnx.merge(self.graph, student), nnx.merge(self.graph, teacher)
        teacher_tokens = jax.lax.stop_gradient(encode_views(teacher_network, views.teacher))
        parts = []
        for number, (group, pixels, boxes) in enumerate(zip(self.recipe.students, views.students, views.boxes)):
            group_keys = jax.vmap(lambda key, number=number: jax.random.fold_in(key, number))(keys)
            parts.append(
                self._encode_group(
                    student_network, group, pixels, boxes, keys=group_keys, teacher_tokens=teacher_tokens, step=step
                )
            )
        first, *others = parts
        names = ("queries", "modes", "positives", "attention_entropy")
        return first.replace(
            **{name: jnp.concatenate([getattr(part, name) for part in (first, *others)], axis=1) for name in names}
        )

    def _encode_group(
        self,
        network: Flsl,
        group: StudentViews,
        pixels: Float[Array, "B V s s 3"],
        boxes: Float[Array, "B V 4"],
        *,
        keys: Key[Array, " B"],
        teacher_tokens: Float[Array, "B T M D"],
        step: Array,
    ) -> Encoded:
        """The student views of one size: tokens, queries, their modes and their positives."""
        settings = self.config.objective
        batch, views = pixels.shape[:2]
        query_keys, drop_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        drop_path = self.config.model.drop_path
        draws = jax.vmap(lambda key: jax.random.uniform(key, (views, self.config.model.depth, 2)))(drop_keys)
        tokens = encode_views(network, pixels, drop_path_draws=draws if drop_path > 0 else None)
        side = group.size // self.config.model.patch_size
        window = settings.query_window if group.size == self.config.views.size else settings.local_query_window

        def sample_view_queries(key: PRNGKeyArray) -> Array:
            draw = lambda view_key: objective.sample_queries(  # noqa: E731
                view_key, grid=(side, side), window=window, random=settings.query_random
            )
            return jax.vmap(draw)(jax.random.split(key, views))

        indices = jax.vmap(sample_view_queries)(query_keys)
        queries = objective.gather_tokens(tokens, indices)
        inv_temp, cross_inv_temp = self.schedules.self_inv_temp(step), self.schedules.cross_inv_temp(step)
        weights = objective.mean_shift_weights(queries, tokens, inv_temp=inv_temp)
        modes = weights @ tokens
        asking = jax.lax.stop_gradient(modes if settings.cross_query == "mode" else queries)
        paired = teacher_tokens[:, jnp.asarray(group.teacher_of)]
        positives = objective.mean_shift(asking, paired, inv_temp=cross_inv_temp)
        if settings.projected_weight.start or settings.projected_weight.end:
            places = objective.query_positions(indices, boxes / self.config.views.size, grid=(side, side))
            projected = objective.sample_tokens(paired, places, grid=(math.isqrt(paired.shape[-2]),) * 2)
            positives += self.schedules.projected_weight(step) * (projected - positives)
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=-1)
        flat = lambda x: x.reshape(batch, -1, *x.shape[3:])  # noqa: E731
        return Encoded(
            queries=flat(queries),
            modes=flat(modes),
            positives=jax.lax.stop_gradient(flat(positives)),
            attention_entropy=jax.lax.stop_gradient(flat(entropy)),
            tokens=jax.lax.stop_gradient(tokens[:, 0]),
        )


def encode_views(
    network: Flsl,
    pixels: Float[Array, "B V s s 3"],
    *,
    drop_path_draws: Float[Array, "B V L 2"] | None = None,
) -> Float[Array, "B V N D"]:
    """Tokens of all views in one pass; the batch stays the leading axis, so that its sharding is kept."""
    batch, views = pixels.shape[:2]
    draws = None if drop_path_draws is None else drop_path_draws.reshape(batch * views, -1, 2)
    tokens = network.backbone(pixels.reshape(batch * views, *pixels.shape[2:]), drop_path_draws=draws)
    return tokens.reshape(batch, views, -1, tokens.shape[-1])


def teacher_targets(
    logits: Float[Array, "R K"],
    settings: ObjectiveConfig,
    *,
    temp: Float[Array, ""],
    center: Float[Array, " K"],
) -> Float[Array, "R K"]:
    """The teacher's probabilities by the config's `targets` (METHOD, "The objective", items 3 and 6)."""
    if settings.targets == "sinkhorn":
        return objective.sinkhorn_targets(logits, temp=temp, iterations=settings.sinkhorn_iterations)
    return objective.softmax_targets(logits, temp=temp, center=center if settings.targets == "centering" else None)


def jit_step(step: TrainStep, *, state_sharding: Any, batch_sharding: Any, replicated: Any) -> Callable[..., Any]:
    """The step compiled once: state donated, batch sharded over all devices, metrics on every device."""
    return jax.jit(
        step.__call__,
        in_shardings=(state_sharding, batch_sharding, batch_sharding),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )


def _rows(x: Float[Array, "B Q D"]) -> Float[Array, "R D"]:
    return x.reshape(-1, x.shape[-1])
