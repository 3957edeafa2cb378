"""The forward pass of student and teacher: from base crops to all that the objective needs of each image."""

import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax import objective
from flsl_jax.config import Config
from flsl_jax.data.views import StudentViews, ViewRecipe, Views, make_views
from flsl_jax.models import Flsl
from flsl_jax.training.guide import GuideFeatures, GuideNetwork
from flsl_jax.training.schedules import StepSchedules
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, Int, Key, PRNGKeyArray, UInt8, UInt32

# Keeps the step's draws (queries, drop path) apart from those of the views, which are keyed by (seed, sample) alone.
_STEP_STREAM = 0x5EED


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

    pixels: Float[Array, "B V s s 3"]
    boxes: Float[Array, "B V 4"]
    keys: Key[Array, " B"]
    guide: GuideFeatures | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
    """The fixed parts of the forward pass; calling it maps (student parameters, state, images, sample) to `Encoded`. Pure."""

    config: Config
    graph: nnx.GraphDef
    recipe: ViewRecipe
    schedules: StepSchedules
    guide: GuideNetwork | None = None

    def __call__(
        self, student: Any, *, state: TrainState, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"]
    ) -> Encoded:
        """Encodes in micro-batches that are recomputed in the backward pass; exact, because no image depends on another here.

        Args:
            student: the student's parameters; gradients flow into them alone.
            state: teacher, guide and step.
            images: base crops, uint8 RGB.
            sample: their global sample indices.
        """
        parts = self.config.compute.micro_batches
        if parts == 1:
            return self._encode(student, state, images, sample)

        # The batch axis is sharded: image b goes to part b % parts, so that every part stays spread over all devices.
        def split(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)

        def join(x: Array) -> Array:
            return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        encode = jax.checkpoint(lambda part: self._encode(student, state, *part))
        return jax.tree.map(join, jax.lax.map(encode, (split(images), split(sample))))

    def _encode(
        self, student: Any, state: TrainState, images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"]
    ) -> Encoded:
        """Encodes each image independently of the others."""
        seed = self.config.seed
        views = make_views(images, sample, seed=seed, recipe=self.recipe)
        if self.guide is None:
            views = dataclasses.replace(views, crops=())
        # Views are finished before anything reads them: XLA would otherwise compute parts of them in every reader.
        views = jax.lax.optimization_barrier(views)
        stream = jax.random.fold_in(jax.random.key(seed), _STEP_STREAM)
        keys = jax.vmap(lambda index: jax.random.fold_in(stream, index))(sample)
        student_network, teacher_network = nnx.merge(self.graph, student), nnx.merge(self.graph, state.teacher)
        teacher_tokens = jax.lax.stop_gradient(encode_views(teacher_network, views.teacher))
        parts = [
            self._encode_group(student_network, group, own, teacher_tokens=teacher_tokens, step=state.step)
            for group, own in zip(self.recipe.students, self._by_size(views, images, keys, state.guide), strict=True)
        ]
        first, *others = parts
        names = ("queries", "modes", "positives", "attention_entropy")
        return dataclasses.replace(
            first,
            **{name: jnp.concatenate([getattr(part, name) for part in (first, *others)], axis=1) for name in names},
        )

    def _by_size(
        self, views: Views, images: UInt8[Array, "B S S 3"], keys: Key[Array, " B"], guide_params: Any
    ) -> list[_GroupViews]:
        """The student views, grouped by size because one size is encoded together, with what the guide sees of them."""
        features: list[GuideFeatures | None] = [None] * len(views.students)
        if self.guide is not None:
            base = self.guide.features(guide_params, images.astype(jnp.float32))
            features = [GuideFeatures(student=self.guide.features(guide_params, x), base=base) for x in views.crops]
        own_keys = [jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys) for n in range(len(views.students))]
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
        drop_path = self.config.model.drop_path
        draws = jax.vmap(lambda key: jax.random.uniform(key, (count, self.config.model.depth, 2)))(drop_keys)
        tokens = encode_views(network, views.pixels, drop_path_draws=draws if drop_path > 0 else None)
        indices = jax.vmap(lambda key: self._sample_queries(key, group))(query_keys)
        queries = objective.gather_tokens(tokens, indices)
        weights = objective.mean_shift_weights(queries, tokens, inv_temp=self.schedules.self_inv_temp(step))
        modes = weights @ tokens
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
        return jax.vmap(draw)(jax.random.split(key, len(group.teacher_of)))

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
        positives = weights @ paired
        if projected_weight.start or projected_weight.end:
            places = objective.query_positions(indices, views.boxes / self.config.views.size, grid=self._grid(group))
            side = math.isqrt(paired.shape[-2])
            projected = objective.sample_tokens(paired, places, grid=(side, side))
            positives += schedules.projected_weight(step) * (projected - positives)
        return positives

    def _grid(self, group: StudentViews) -> tuple[int, int]:
        side = group.size // self.config.model.patch_size
        return side, side


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
