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
from flsl_jax.models import Architecture, Flsl, Head, ViT


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


def compute_dtype(config: Config) -> jnp.dtype:
    """The dtype of matrix products: bfloat16 on accelerators, float32 on CPU, unless the config names one."""
    name = config.compute.dtype
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def architecture_of(config: Config) -> Architecture:
    """The backbone that the config describes."""
    model, side = config.model, config.views.size // config.model.patch_size
    return Architecture(
        patch_size=model.patch_size,
        width=model.width,
        depth=model.depth,
        num_heads=model.num_heads,
        grid=(side, side),
        pos_embed=model.pos_embed,
        pos_resize=model.pos_resize,
    )


def backbone_of(architecture: Architecture, config: Config, *, rngs: nnx.Rngs) -> ViT:
    """A backbone, freshly initialised, computed as the config says: dtype, scan, remat, attention."""
    scan = config.compute.scan_blocks == "scan"
    if config.compute.scan_blocks == "auto":
        # XLA for CPUs computes only once what unrolled blocks would recompute, which leaves remat without effect.
        backend = jax.default_backend()
        scan = backend == "tpu" or (backend == "cpu" and config.compute.remat != "none")
    return ViT(
        architecture,
        drop_path=config.model.drop_path,
        init_std=config.model.init_std,
        dtype=compute_dtype(config),
        scan_blocks=scan,
        remat=config.compute.remat,
        attention=config.compute.attention,
        rngs=rngs,
    )


def build_network(config: Config, *, rngs: nnx.Rngs) -> Flsl:
    """Backbone and head as the config describes them, freshly initialised."""
    head = config.head
    return Flsl(
        backbone=backbone_of(architecture_of(config), config, rngs=rngs),
        head=Head(
            width=config.model.width,
            hidden=head.hidden,
            bottleneck=head.bottleneck,
            centroids=head.centroids,
            norm_last_layer=head.norm_last_layer,
            dtype=compute_dtype(config),
            rngs=rngs,
        ),
    )


def network_graph(config: Config) -> nnx.GraphDef:
    """The static part of the network, which `nnx.merge` joins with a parameter tree; allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: build_network(config, rngs=nnx.Rngs(0))), nnx.Param)[0]


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

    return state.replace(
        student=network(state.student, abstract_state.student), teacher=network(state.teacher, abstract_state.teacher)
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
