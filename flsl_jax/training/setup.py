"""From a config to everything compiled or sharded that training needs, before the first step."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from flsl_jax import parallel
from flsl_jax.config import Config, ViewsConfig
from flsl_jax.data.views import Augmentation, ViewRecipe, multicrop_recipe, paper_recipe, released_recipe
from flsl_jax.errors import UserError
from flsl_jax.models import cudnn_attends
from flsl_jax.networks import architecture_of, for_backend, network_graph
from flsl_jax.training import cost, memory
from flsl_jax.training.dino import DinoMethod
from flsl_jax.training.flsl import FlslMethod
from flsl_jax.training.guide import Guide, GuideNetwork
from flsl_jax.training.method import Method
from flsl_jax.training.optimizer import make_optimizer
from flsl_jax.training.schedules import StepSchedules, make_schedules
from flsl_jax.training.state import TrainState, create_state
from flsl_jax.training.step import StepFunction, TrainStep, jit_step

# Measured with the quickstart: 1,000 scenes taught single tokens no more than 50 did, and 6,400 six times as much.
_FEW_IMAGES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The compiled step and what it runs on.

    `step` maps (state, images, sample) to (state, metrics), donating the state. `abstract_state` is the state's shapes
    with their shardings; `create` makes the state on the devices, already sharded, without the guide. `flops_per_image`:
    of a step.
    """

    step: StepFunction
    pure_step: TrainStep
    create: Callable[[], TrainState]
    guide: Guide | None
    abstract_state: TrainState
    batch_sharding: NamedSharding
    replicated: NamedSharding
    total_steps: int
    steps_per_epoch: int
    flops_per_image: float

    def init(self) -> TrainState:
        """The state before the first step, on the devices."""
        return dataclasses.replace(self.create(), guide=self.place_guide())

    def place_guide(self) -> Any:
        """The part of the state that checkpoints leave out, on the devices."""
        return {} if self.guide is None else parallel.place(self.guide.params, self.abstract_state.guide)


def steps_per_epoch(config: Config, *, steps_per_pass: int) -> int:
    """Updates an epoch, which is one pass over the data unless the config says how many images it has."""
    return config.epoch_images // config.batch_size or steps_per_pass


def build_training(config: Config, *, mesh: Mesh, steps_per_epoch: int, guide: Guide | None = None) -> Training:
    """Builds the step for a mesh. Nothing is compiled or allocated yet, so the devices need not exist on this machine.

    Where the config says "auto", the step is what suits the mesh's devices.

    Args:
        config: a checked configuration.
        mesh: the devices.
        steps_per_epoch: of the data.
        guide: what `config.guide.model` names, opened; None without a second stage.

    Raises:
        UserError: `objective.prior` cannot be read or does not fit the head.
        ValueError: the config names a guide that is not given, or the other way round.
    """
    if bool(config.guide.model) != (guide is not None):
        given = "none" if guide is None else guide.name
        raise ValueError(f"config.guide.model is {config.guide.model!r}, but the guide given is {given}")
    config = settled(config, mesh=mesh)
    network = None if guide is None else guide.network
    step = _make_step(config, steps_per_epoch=steps_per_epoch, guide=network, mesh=mesh)

    def create() -> TrainState:
        return create_state(config, optimizer=step.optimizer)

    shapes = dataclasses.replace(jax.eval_shape(create), guide={} if guide is None else guide.params)
    shardings = parallel.state_shardings(shapes, mesh=mesh)
    batch = parallel.batch_sharding(mesh)
    return Training(
        step=jit_step(step, state_sharding=shardings, batch_sharding=batch, replicated=parallel.replicated(mesh)),
        pure_step=step,
        create=jax.jit(create, out_shardings=dataclasses.replace(shardings, guide={})),
        guide=guide,
        abstract_state=jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
        ),
        batch_sharding=batch,
        replicated=parallel.replicated(mesh),
        total_steps=config.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        flops_per_image=cost.step_flops_per_image(config, guide=network),
    )


def settled(config: Config, *, mesh: Mesh) -> Config:
    """The config with each "auto" of `compute` replaced by what suits the devices.

    Attention is cuDNN's if all GPUs are there and the first process finds that it works for every size of view.
    """
    asked, config = config.compute.attention, for_backend(config, parallel.backend_of(mesh))
    may = asked == "auto" and config.compute.dtype == "bfloat16" and parallel.backend_of(mesh) == "gpu"
    if not may or not parallel.is_here(mesh):
        return config
    architecture, views = architecture_of(config), config.views
    sizes = {views.size} if views.recipe == "paper" else {views.size, views.local_size}
    works = all(
        cudnn_attends(
            tokens=(size // architecture.patch_size) ** 2 + architecture.num_prefix,
            heads=architecture.num_heads,
            channels=architecture.width // architecture.num_heads,
        )
        for size in sorted(sizes)
    )
    if not parallel.as_first(works):
        return config
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, attention="cudnn"))


def _make_step(config: Config, *, steps_per_epoch: int, guide: GuideNetwork | None, mesh: Mesh) -> TrainStep:
    freeze = round(config.optimizer.freeze_last_layer_epochs * steps_per_epoch)
    freeze_backbone = round(config.head.warmup_epochs * steps_per_epoch)
    optimizer = make_optimizer(
        b1=config.optimizer.b1,
        b2=config.optimizer.b2,
        freeze_last_layer_steps=freeze,
        freeze_backbone_steps=freeze_backbone,
    )
    spread = parallel.Spread(mesh=mesh) if config.parallel.fsdp > 1 else None
    of_blocks = None if spread is None else dataclasses.replace(spread, depth=config.model.depth)
    graph = network_graph(config, placement=of_blocks)
    schedules = make_schedules(config, steps_per_epoch=steps_per_epoch)
    return TrainStep(
        config=config,
        graph=graph,
        method=_make_method(config, graph=graph, schedules=schedules, guide=guide),
        schedules=schedules,
        optimizer=optimizer,
        freeze_last_layer_steps=freeze,
        freeze_backbone_steps=freeze_backbone,
        spread=spread,
    )


def _make_method(
    config: Config, *, graph: nnx.GraphDef, schedules: StepSchedules, guide: GuideNetwork | None
) -> Method:
    recipe = view_recipe(config.views)
    if config.objective.method == "dino":
        return DinoMethod(config=config, graph=graph, recipe=recipe, schedules=schedules)
    prior = read_prior(config.objective.prior, centroids=config.head.centroids)
    return FlslMethod(config=config, graph=graph, recipe=recipe, schedules=schedules, guide=guide, prior=prior)


def view_recipe(views: ViewsConfig) -> ViewRecipe:
    """The recipe of the views that the config names, with its sizes, areas and probabilities."""
    augmentation = Augmentation(
        jitter_probability=views.jitter_probability,
        brightness=views.brightness,
        contrast=views.contrast,
        saturation=views.saturation,
        hue=views.hue,
        grayscale_probability=views.grayscale_probability,
        blur_probability=views.blur_probability,
        blur_sigma=views.blur_sigma,
        solarise_probability=views.solarise_probability,
        mean=views.mean,
        std=views.std,
    )
    size, area, aspect = views.size, views.student_area, views.aspect
    if views.recipe == "paper":
        return paper_recipe(size=size, student_area=area, aspect=aspect, augmentation=augmentation)
    local = {"local_size": views.local_size, "local_count": views.local_count, "local_area": views.local_area}
    if views.recipe == "released":
        return released_recipe(size=size, student_area=area, aspect=aspect, augmentation=augmentation, **local)
    return multicrop_recipe(size=size, global_area=area, aspect=aspect, augmentation=augmentation, **local)


def read_prior(prior: str, *, centroids: int) -> np.ndarray | None:
    """The prior over centroids, float32 [K]; None for the uniform one.

    Raises:
        UserError: the file is not a .npy of K non-negative numbers that sum to 1.
    """
    if prior == "uniform":
        return None
    try:
        values = np.load(Path(prior), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f'config.objective.prior = {prior!r} is neither "uniform" nor a readable .npy file') from error
    if values.shape != (centroids,) or not (values.min() >= 0 and abs(values.sum() - 1) <= 1e-4):
        raise UserError(
            f"config.objective.prior = {prior!r} holds {values.shape} numbers from {values.min():.3g} that sum to "
            f"{values.sum():.6g}; expected {centroids} (config.head.centroids), none negative, that sum to 1"
        )
    return np.asarray(values / values.sum(), np.float32)


def describe(config: Config, training: Training, *, images: int) -> str:
    """What the user should see before the first step: devices, parameters, cost and memory. `images`: in the data set."""
    devices, params = jax.devices(), training.abstract_state.student
    config = dataclasses.replace(config, compute=training.pure_step.config.compute)
    dtype, attention = jnp.dtype(config.compute.dtype), ", cuDNN's attention" * (config.compute.attention == "cudnn")
    sizes = memory_sizes(training, devices=len(devices))
    estimate = memory.estimate_memory(config, **sizes)
    return "\n".join(
        [
            f"{len(devices)} × {devices[0].device_kind} in {jax.process_count()} process(es), JAX {jax.__version__}, "
            f"{dtype.name}{attention}{_spread(config)}",
            cost.parameter_table(params),
            f"{training.total_steps} steps, {training.steps_per_epoch} an epoch{_cut(config, training)}; "
            f"{training.flops_per_image / 1e9:.2f} GFLOP an image",
            f"{images:,} images, each of them about {training.total_steps * config.batch_size / images:.3g} times",
            memory.describe_memory(
                estimate,
                limit=memory.device_memory(),
                smaller=lambda limit: memory.first_that_fits(config, limit=limit, **sizes),
            ),
        ]
    )


def memory_sizes(training: Training, *, devices: int) -> dict[str, Any]:
    """What `memory.estimate_memory` is told beside the config, for so many devices."""
    mesh = training.replicated.mesh
    assert isinstance(mesh, Mesh)
    return {
        "parameters": _count(training.abstract_state.student),
        "guide_parameters": _count(training.abstract_state.guide),
        "devices": devices,
        "platform": parallel.backend_of(mesh),
        "slices": parallel.slices_of(mesh),
        "compute_bytes": jnp.dtype(training.pure_step.config.compute.dtype).itemsize,
    }


def _spread(config: Config) -> str:
    fsdp, parts = config.parallel.fsdp, config.compute.micro_batches
    parameters = f", parameters spread over {fsdp} devices" if fsdp > 1 else ""
    return parameters + (f", the batch in {parts} parts" if parts > 1 else "")


def _cut(config: Config, training: Training) -> str:
    stop = config.stop_at_step
    return f", of which this run takes the first {stop}" if 0 < stop < training.total_steps else ""


def few_images(images: int, *, started: bool = False) -> list[str]:
    """A line that says so where a data set has too few images to learn classes from; else none.

    Args:
        images: of the data set.
        started: whether the run starts from trained weights.
    """
    if images >= _FEW_IMAGES:
        return []
    advice = "Take more if you can" if started else "Take thousands, or start from trained weights by config.init_from"
    return [
        f"{images:,} images are few: trained on 50 to 1,000 synthetic scenes, single tokens learned almost nothing that "
        f"held for other scenes (docs/quickstart.md). {advice}"
    ]


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
