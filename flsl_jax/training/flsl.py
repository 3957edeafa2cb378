"""FLSL: from base crops to queries, modes and positives of each image, and the objective of a batch of them."""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax import objective
from flsl_jax.config import Config
from flsl_jax.data.views import StudentViews, ViewRecipe, Views, make_views
from flsl_jax.models import Flsl
from flsl_jax.networks import compute_dtype
from flsl_jax.objective.precision import matmul
from flsl_jax.training.guide import GuideFeatures, GuideNetwork
from flsl_jax.training.method import (
    MethodLoss,
    drop_path_draws,
    encode_views,
    finished_views,
    keys_of_group,
    next_center,
    sample_keys,
    teacher_targets,
)
from flsl_jax.training.monitor import cluster_values, feature_values, mode_values
from flsl_jax.training.schedules import StepSchedules
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, Int, Key, PRNGKeyArray, UInt8, UInt32


@flax.struct.dataclass
class Encoded:
    """What the objective needs of each image; nothing else goes from the micro-batches to the loss.

    Q counts the queries of all student views of an image. `tokens` are those of the first one, for the monitor.
    Micro-batches that are not joined yet have a leading axis.
    """

    queries: Float[Array, "*part B Q D"]
    modes: Float[Array, "*part B Q D"]
    positives: Float[Array, "*part B Q D"]
    attention_entropy: Float[Array, "*part B Q"]
    tokens: Float[Array, "*part B N D"]


@flax.struct.dataclass
class _GroupViews:
    """The student views of one size, where they lie in the base crop, the keys of their draws, and what the guide sees."""

    pixels: Float[Array, "B V s s C"]
    boxes: Float[Array, "B V 4"]
    keys: Key[Array, " B"]
    guide: GuideFeatures | None


@flax.struct.dataclass
class _Prepared:
    """The student views, and the teacher's tokens of its own."""

    groups: tuple[_GroupViews, ...]
    teacher_tokens: Float[Array, "B T M D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlslMethod:
    """FLSL's encoding and loss; see `Method`."""

    config: Config
    graph: nnx.GraphDef
    recipe: ViewRecipe
    schedules: StepSchedules
    guide: GuideNetwork | None = None
    prior: Float[Array, " K"] | np.ndarray | None = None

    def prepare(self, state: TrainState, *, images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"]) -> _Prepared:
        """All views, and the teacher's tokens."""
        seed = self.config.seed
        views = finished_views(
            make_views(images, sample, seed=seed, recipe=self.recipe),
            crops=self.guide is not None,
            dtype=compute_dtype(self.config),
        )
        keys, teacher_network = sample_keys(sample, seed=seed), nnx.merge(self.graph, state.teacher)
        return _Prepared(
            groups=tuple(self._by_size(views, images, keys, state.guide)),
            teacher_tokens=jax.lax.stop_gradient(encode_views(teacher_network, views.teacher)),
        )

    def encode(self, student: Any, prepared: _Prepared, *, state: TrainState) -> Encoded:
        """Queries, modes and positives of each image."""
        network = nnx.merge(self.graph, student)
        parts = [
            self._encode_group(network, group, own, teacher_tokens=prepared.teacher_tokens, step=state.step)
            for group, own in zip(self.recipe.students, prepared.groups, strict=True)
        ]
        first, *others = parts
        names = ("queries", "modes", "positives", "attention_entropy")
        return dataclasses.replace(
            first,
            **{name: jnp.concatenate([getattr(part, name) for part in (first, *others)], axis=1) for name in names},
        )

    def loss(self, encoded: Encoded, *, student: Flsl, teacher: Flsl, state: TrainState) -> MethodLoss:
        """The three terms and their sum, and the monitor's values."""
        settings, step = self.config.objective, state.step
        queries, modes, positives = (_rows(x) for x in (encoded.queries, encoded.modes, encoded.positives))
        student_logits = student.head(modes)
        teacher_logits = jax.lax.stop_gradient(teacher.head(positives))
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
        scheduled = {key: weight for key, weight in weights.items() if isinstance(weight, Array)}
        metrics = {"loss": loss.total, **loss.terms, "teacher_temp": teacher_temp, **scheduled}
        metrics |= cluster_values(
            student_probs=jax.nn.softmax(student_logits / settings.student_temp),
            teacher_probs=teacher_probs,
        )
        metrics |= feature_values(encoded.tokens)
        metrics |= mode_values(
            modes=encoded.modes,
            attention_entropy=encoded.attention_entropy,
            tokens=encoded.tokens,
            inv_temp=self.schedules.self_inv_temp(step),
        )
        center = next_center(state.center, teacher_logits, settings)
        return MethodLoss(total=loss.total, metrics=metrics, center=center)

    def _by_size(
        self, views: Views, images: UInt8[Array, "B S S C"], keys: Key[Array, " B"], guide_params: Any
    ) -> list[_GroupViews]:
        """The student views, grouped by size because one size is encoded together, with what the guide sees of them."""
        features: list[GuideFeatures | None] = [None] * len(views.students)
        if self.guide is not None:
            base = self.guide.features(guide_params, images.astype(jnp.float32))
            features = [GuideFeatures(student=self.guide.features(guide_params, x), base=base) for x in views.crops]
        own_keys = [keys_of_group(keys, number) for number in range(len(views.students))]
        return [
            _GroupViews(pixels=pixels, boxes=boxes, keys=own, guide=guide)
            for pixels, boxes, own, guide in zip(views.students, views.boxes, own_keys, features, strict=True)
        ]

    def _encode_group(
        self,
        network: Flsl,
        group: StudentViews,
        views: _GroupViews,
        *,
        teacher_tokens: Float[Array, "B T M D"],
        step: Int[Array, ""],
    ) -> Encoded:
        """The student views of one size: tokens, queries, their modes and their positives."""
        batch, count = views.pixels.shape[:2]
        query_keys, drop_keys = jnp.moveaxis(jax.vmap(jax.random.split)(views.keys), 1, 0)
        model = self.config.model
        draws = drop_path_draws(drop_keys, views=count, depth=model.depth, rate=model.drop_path)
        tokens = encode_views(network, views.pixels, draws=draws)
        indices = jax.vmap(lambda key: self._sample_queries(key, group))(query_keys)
        queries = objective.gather_tokens(tokens, indices)
        weights = objective.mean_shift_weights(queries, tokens, inv_temp=self.schedules.self_inv_temp(step))
        modes = matmul(weights, tokens)
        asking = modes if self.config.objective.cross_query == "mode" else queries
        paired = teacher_tokens[:, jnp.asarray(group.teacher_of)]
        positives = self._positives(jax.lax.stop_gradient(asking), indices, paired, views, group=group, step=step)
        entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=-1)
        flat = lambda x: x.reshape(batch, -1, *x.shape[3:])  # noqa: E731
        return Encoded(
            queries=flat(queries),
            modes=flat(modes),
            positives=jax.lax.stop_gradient(flat(positives)),
            attention_entropy=jax.lax.stop_gradient(flat(entropy)),
            tokens=jax.lax.stop_gradient(tokens[:, 0]),
        )

    def _sample_queries(self, key: PRNGKeyArray, group: StudentViews) -> Int[Array, "V Q"]:
        """Token indices of the queries of one image's views."""
        settings = self.config.objective
        window = settings.query_window if group.size == self.config.views.size else settings.local_query_window
        draw = lambda view_key: objective.sample_queries(  # noqa: E731
            view_key, grid=self._grid(group), window=window, random=settings.query_random
        )
        return jax.vmap(draw)(jax.random.split(key, group.count))

    def _positives(
        self,
        asking: Float[Array, "B V Q D"],
        indices: Int[Array, "B V Q"],
        paired: Float[Array, "B V M D"],
        views: _GroupViews,
        *,
        group: StudentViews,
        step: Int[Array, ""],
    ) -> Float[Array, "B V Q D"]:
        """The positive modes among the paired teacher tokens, guided and projected by the shares of this step."""
        schedules, projected_weight = self.schedules, self.config.objective.projected_weight
        weights = objective.mean_shift_weights(asking, paired, inv_temp=schedules.cross_inv_temp(step))
        if views.guide is not None:
            settings = self.config.guide
            guided = views.guide.weights(indices, inv_temp=settings.inv_temp, sharpness=settings.sharpness)
            weights += schedules.guide_weight(step) * (guided - weights)
        positives = matmul(weights, paired)
        if projected_weight.start or projected_weight.end:
            places = objective.query_positions(indices, views.boxes / self.config.views.size, grid=self._grid(group))
            side = math.isqrt(paired.shape[-2])
            projected = objective.sample_tokens(paired, places, grid=(side, side))
            positives += schedules.projected_weight(step) * (projected - positives)
        return positives

    def _grid(self, group: StudentViews) -> tuple[int, int]:
        side = group.size // self.config.model.patch_size
        return side, side


def _rows(x: Float[Array, "B Q D"]) -> Float[Array, "R D"]:
    return x.reshape(-1, x.shape[-1])
