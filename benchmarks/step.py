"""Images/s of the training step, beside a PyTorch step of the same work in the same run, with the step's parts apart.

    python -m benchmarks.step --config=configs/vits16.py --batch=8 [--torch=eager,compile] [--parts] [--compile]

Ours and PyTorch's take turns for `--blocks` rounds; the medians are reported, with the range, and their ratio. PyTorch has a
process of its own, so that neither side's allocator and threads are the other's. Inputs are random. PyTorch is left out
where it is not installed. The limit is the step's FLOPs over the device's peak; where the peak is not known (every CPU),
over what a large matrix product reaches in the same run.
"""

import concurrent.futures
import dataclasses
import importlib.util
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags

from flsl_jax import parallel
from flsl_jax.config import Config, parse_config
from flsl_jax.data.views import make_views
from flsl_jax.host_memory import keep_host_memory
from flsl_jax.training import cost
from flsl_jax.training.optimizer import apply_update, clip_gradients, ema_update
from flsl_jax.training.setup import Training, build_training

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vits16.py", "Config whose step is measured.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images a step.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 1, "Steps of a timed block.", lower_bound=1)
_BLOCKS = flags.DEFINE_integer("blocks", 5, "Timed blocks of every side.", lower_bound=1)
_TORCH = flags.DEFINE_list("torch", ["eager"], 'PyTorch steps to measure: "eager", "compile".')
_PARTS = flags.DEFINE_bool("parts", False, "Measure the step's parts too.")
_COMPILE = flags.DEFINE_bool("compile", False, "Measure what compiling takes, with and without the persistent cache.")


@dataclasses.dataclass(frozen=True)
class Side:
    """One of those that take turns: a name, what runs a step and waits for it, and what got it ready."""

    name: str
    step: Callable[[], object]
    ready_seconds: float


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    logging.set_verbosity(logging.ERROR)
    settings = _CONFIG.value
    settings.batch_size, settings.model.drop_path = _BATCH.value, 0.0
    config = parse_config(settings.to_dict())
    size = config.views.size
    images = np.random.default_rng(0).integers(0, 256, (_BATCH.value, size, size, 3), dtype=np.uint8)
    keep_host_memory()
    mesh = parallel.make_mesh(config.parallel)
    training = build_training(config, mesh=mesh, steps_per_epoch=100)
    sides = [our_step(training, images)] + [torch_step(config, images, kind=kind) for kind in _TORCH.value]
    sides = [side for side in sides if side is not None]
    flops, peak = training.flops_per_image, peak_flops()
    print(
        f"{jax.devices()[0].device_kind} × {jax.device_count()}, JAX {jax.__version__}, batch {_BATCH.value}, {size} px"
    )
    print(f"limit {peak / flops:.4g} images/s: {flops / 1e9:.4g} GFLOP an image at {peak / 1e12:.4g} TFLOP/s")
    rates = take_turns(sides)
    ours = statistics.median(rates[sides[0].name])
    for side in sides:
        rate = rates[side.name]
        print(
            f"{side.name:<16}{statistics.median(rate):9.4g} images/s ({min(rate):.4g} … {max(rate):.4g})   "
            f"{100 * statistics.median(rate) * flops / peak:5.1f} % of the limit   ours is "
            f"{ours / statistics.median(rate):.2f}×   first step after {side.ready_seconds:.1f} s"
        )
    if _PARTS.value:
        report_parts(training, images)
    if _COMPILE.value:
        report_compile(training, images)


def take_turns(sides: Sequence[Side]) -> dict[str, list[float]]:
    """Images/s of every block, A B A B …"""
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(_BLOCKS.value):
        for side in sides:
            start = time.perf_counter()
            for _ in range(_STEPS.value):
                side.step()
            rates[side.name].append(_STEPS.value * _BATCH.value / (time.perf_counter() - start))
    return rates


def our_step(training: Training, images: np.ndarray) -> Side:
    """The compiled step as the loop runs it, with its metrics read after every step."""
    start = time.perf_counter()
    state = training.init()
    pixels = parallel.to_devices(images, training.batch_sharding)
    sample = parallel.to_devices(np.arange(len(images), dtype=np.uint32), training.batch_sharding)
    compiled = training.step.lower(state, pixels, sample).compile()
    holder = [state]

    def step() -> float:
        holder[0], metrics = compiled(holder[0], pixels, sample)
        return float(metrics["loss"])

    step()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    if memory is not None:
        print(
            f"memory of the compiled step: {(memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30:.2f} GiB"
        )
    return Side("flsl_jax", step, seconds)


def torch_step(config: Config, images: np.ndarray, *, kind: str) -> Side | None:
    """PyTorch's step, eager or compiled, in a process of its own; None where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed; only our step is measured")
        return None
    from benchmarks import torch_step as theirs

    start = time.perf_counter()
    process = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=theirs.hold, initargs=(config, images, kind == "compile")
    )

    def step() -> float:
        return process.submit(theirs.held_step).result()

    step()
    return Side(f"PyTorch {kind}", step, time.perf_counter() - start)


def peak_flops() -> float:
    """The devices' peak; on an unknown device that of the best of ten large matrix products."""
    known = cost.peak_flops(jax.devices()[0].device_kind)
    if known is not None:
        return known * jax.device_count()
    side = 2048
    matrix = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(lambda x: x @ x)
    product(matrix).block_until_ready()
    best = min(_seconds(lambda: product(matrix)) for _ in range(10))
    return 2 * side**3 / best


def report_compile(training: Training, images: np.ndarray) -> None:
    """Seconds to trace and to compile the step: the first time, and read back from the persistent cache."""
    pixels = jax.ShapeDtypeStruct(images.shape, images.dtype, sharding=training.batch_sharding)
    sample = jax.ShapeDtypeStruct((len(images),), np.uint32, sharding=training.batch_sharding)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        compilation_cache.reset_cache()
        for name in ("cold", "warm"):
            jax.clear_caches()
            start = time.perf_counter()
            lowered = training.step.lower(training.abstract_state, pixels, sample)
            traced = time.perf_counter()
            lowered.compile()
            print(f"  {name}: traced in {traced - start:.1f} s, compiled in {time.perf_counter() - traced:.1f} s")


def report_parts(training: Training, images: np.ndarray) -> None:
    """Milliseconds an image of the views, the backbone forward, forward and backward, the head, and the update."""
    step, state = training.pure_step, training.init()
    pixels, sample = jnp.asarray(images), jnp.arange(len(images), dtype=jnp.uint32)
    views = jax.jit(lambda x, s: make_views(x, s, seed=0, recipe=step.encoding.recipe).replace(crops=()))
    crops = views(pixels, sample).students[0]
    crops = crops.reshape(-1, *crops.shape[2:])

    def tokens(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(step.graph, params).backbone(x)

    def head(params: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(step.graph, params).head(x) ** 2)

    def update(state: Any) -> Any:
        settings = step.config.optimizer
        clipped = clip_gradients(state.student, mode=settings.clip, max_norm=settings.clip_norm)
        direction, _ = step.optimizer.update(clipped.grads, state.opt_state, state.student)
        student = apply_update(
            state.student, direction, step=state.step, lr=1e-4, weight_decay=0.05, freeze_last_layer_steps=0
        )
        return ema_update(state.teacher, student, momentum=0.996)

    grid, width = crops.shape[1] // step.config.model.patch_size, step.config.model.width
    modes = jax.random.normal(
        jax.random.key(0), (len(crops) * (grid // step.config.objective.query_window) ** 2, width)
    )
    parts = {
        "views": (views, pixels, sample),
        "forward": (jax.jit(tokens), state.student, crops),
        "forward+backward": (jax.jit(jax.grad(lambda p, x: jnp.sum(tokens(p, x) ** 2))), state.student, crops),
        "head, both ways": (jax.jit(jax.grad(head)), state.student, modes),
        "optimizer + EMA": (jax.jit(update), state),
    }
    for name, (function, *inputs) in parts.items():
        jax.block_until_ready(function(*inputs))
        times = [_seconds(lambda function=function, inputs=inputs: function(*inputs)) for _ in range(_BLOCKS.value)]
        print(f"  {name:<18}{1e3 * statistics.median(times) / len(images):9.3f} ms an image")


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)
