"""The DINO twin (Caron et al. 2021): the same networks, views' pixels, step and data, with an objective of whole images.

An image's feature is the mean of a view's tokens, because the backbone has no class token. See docs/method.md, The DINO twin.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax import objective
from flsl_jax.config import Config
from flsl_jax.data.views import ViewRecipe, make_views
from flsl_jax.models import Flsl
from flsl_jax.networks import compute_dtype
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
from flsl_jax.training.monitor import cluster_values, feature_values
from flsl_jax.training.schedules import StepSchedules
from flsl_jax.training.state import TrainState
from flsl_jax.typing import Array, Float, Key, UInt8, UInt32


@flax.struct.dataclass
class EncodedImages:
    """Mean tokens of the student's views (V, the teacher's T first) and of the teacher's.

    `tokens` are those of the first student view, for the monitor. Micro-batches that are not joined yet have a leading axis.
    """

    student: Float[Array, "*part B V D"]
    teacher: Float[Array, "*part B T D"]
    tokens: Float[Array, "*part B N D"]


@flax.struct.dataclass
class _Prepared:
    """The student's views by size, [B, V, s, s, 3] each, the teacher's first; the keys of the images' draws; the teacher's
    mean tokens."""

    views: tuple[Array, ...]
    keys: Key[Array, " B"]
    teacher: Float[Array, "B T D"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DinoMethod:
    """The twin's encoding and loss; see `Method`."""

    config: Config
    graph: nnx.GraphDef
    recipe: ViewRecipe
    schedules: StepSchedules

    def prepare(self, state: TrainState, *, images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"]) -> _Prepared:
        """All views, and the teacher's mean tokens."""
        views = make_views(images, sample, seed=self.config.seed, recipe=self.recipe)
        views = finished_views(views, crops=False, dtype=compute_dtype(self.config))
        teacher = _mean_tokens(encode_views(nnx.merge(self.graph, state.teacher), views.teacher))
        return _Prepared(
            views=(views.teacher, *views.students),
            keys=sample_keys(sample, seed=self.config.seed),
            teacher=jax.lax.stop_gradient(teacher),
        )

    def encode(self, student: Any, prepared: _Prepared, *, state: TrainState) -> EncodedImages:
        """The mean tokens of all views of each image."""
        del state
        network = nnx.merge(self.graph, student)
        tokens = [
            self._tokens(network, pixels, keys=keys_of_group(prepared.keys, number))
            for number, pixels in enumerate(prepared.views)
        ]
        return EncodedImages(
            student=jnp.concatenate([_mean_tokens(x) for x in tokens], axis=1),
            teacher=prepared.teacher,
            tokens=jax.lax.stop_gradient(tokens[0][:, 0]),
        )

    def _tokens(
        self, network: Flsl, pixels: Float[Array, "B V s s C"], *, keys: Key[Array, " B"]
    ) -> Float[Array, "B V N D"]:
        model = self.config.model
        draws = drop_path_draws(keys, views=pixels.shape[1], depth=model.depth, rate=model.drop_path)
        return encode_views(network, pixels, draws=draws)

    def loss(self, encoded: EncodedImages, *, student: Flsl, teacher: Flsl, state: TrainState) -> MethodLoss:
        """The cross-entropy between the views, and the monitor's values."""
        settings = self.config.objective
        student_logits = student.head(encoded.student)
        teacher_logits = jax.lax.stop_gradient(teacher.head(encoded.teacher))
        temp = self.schedules.teacher_temp(state.step)
        rows = teacher_logits.reshape(-1, teacher_logits.shape[-1])
        probs = teacher_targets(rows, settings, temp=temp, center=state.center)
        total = objective.dino_loss(student_logits, probs.reshape(teacher_logits.shape), temp=settings.student_temp)
        shared = student_logits[:, : self.recipe.teacher_views].reshape(rows.shape)
        return MethodLoss(
            total=total,
            metrics={
                "loss": total,
                "teacher_temp": temp,
                **cluster_values(
                    student_probs=jax.nn.softmax(shared / settings.student_temp),
                    teacher_probs=probs,
                ),
                **feature_values(encoded.tokens),
            },
            center=next_center(state.center, rows, settings),
        )


def _mean_tokens(tokens: Float[Array, "B V N D"]) -> Float[Array, "B V D"]:
    return jnp.mean(tokens.astype(jnp.float32), axis=-2)
