"""The training state: one frozen pytree, made sharded, never on one device first."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.networks import build_network


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes, and the frozen guide of a second stage.

    `step`: updates done, int32. `student`, `teacher`: parameter trees of one graph, float32. `opt_state`: the
    optimizer's. `center`: the teacher logits' running mean, float32 [K] (used with `targets="centering"` only). `guide`: the
    parameters of `GuideNetwork`, never changed; empty without one. Leaves may also be shapes or shardings, as JAX's
    transformations make them.
    """

    step: Any
    student: Any
    teacher: Any
    opt_state: Any
    center: Any
    guide: Any = flax.struct.field(default_factory=dict)

    def changing(self) -> dict[str, Any]:
        """All but the guide, by name: what checkpoints hold."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "guide"}


def start_from(state: TrainState, *, backbone: Any, head: Any | None, abstract_state: TrainState) -> TrainState:
    """The state with student and teacher starting from given parameters, each its own copy, sharded as the state is.

    Args:
        state: the state before the first step.
        backbone: nested dictionaries of NumPy arrays, with the names and shapes of the state's.
        head: the same of the head; None keeps the state's.
        abstract_state: the state's shapes with their shardings.
    """

    def network(current: Any, like: Any) -> Any:
        own_head = current["head"] if head is None else parallel.place(head, like["head"])
        return {**current, "backbone": parallel.place(backbone, like["backbone"]), "head": own_head}

    return dataclasses.replace(
        state,
        student=network(state.student, abstract_state.student),
        teacher=network(state.teacher, abstract_state.teacher),
    )


def create_state(config: Config, *, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, without a guide: the teacher starts as a copy of the student. Pure: jit it with
    shardings."""
    params = nnx.to_pure_dict(nnx.split(build_network(config, rngs=nnx.Rngs(config.seed)), nnx.Param)[1])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        student=params,
        teacher=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        center=jnp.zeros((config.head.centroids,), jnp.float32),
    )
