"""Our training step in a process of its own, for `benchmarks.step`: compiled once, then run in timed blocks."""

import collections
import dataclasses
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.data.views import make_views
from flsl_jax.host_memory import keep_host_memory
from flsl_jax.training import cost
from flsl_jax.training.optimizer import apply_update, clip_gradients, ema_update
from flsl_jax.training.setup import build_training

_PROFILED_STEPS = 3
# Timed calls of every part; the median counts.
_PART_CALLS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known once the step is compiled: devices, cost, bytes on one device and seconds."""

    devices: str
    flops_per_image: float
    peak_flops: float
    compiled_gib: float
    trace_seconds: float
    compile_seconds: float

    def __str__(self) -> str:
        return (
            f"{self.compiled_gib:.2f} GiB by the compiler, traced in {self.trace_seconds:.1f} s, "
            f"compiled in {self.compile_seconds:.1f} s"
        )


class OurStep:
    """State and update; `run(steps)` does that many steps and reads the last loss, as the training loop's devices do."""

    def __init__(self, config: Config, images: np.ndarray) -> None:
        keep_host_memory()
        self.images = images
        self.training = build_training(config, mesh=parallel.make_mesh(config.parallel), steps_per_epoch=100)
        training, self._state = self.training, self.training.init()
        self._pixels = parallel.to_devices(images, training.batch_sharding)
        self._sample = parallel.to_devices(np.arange(len(images), dtype=np.uint32), training.batch_sharding)
        start = time.perf_counter()
        lowered = training.step.lower(self._state, self._pixels, self._sample)
        traced = time.perf_counter()
        self._compiled = lowered.compile()
        memory = self._compiled.memory_analysis()
        self.facts = Facts(
            devices=f"{jax.device_count()} × {jax.devices()[0].device_kind}, JAX {jax.__version__}",
            flops_per_image=training.flops_per_image,
            peak_flops=peak_flops(),
            compiled_gib=(memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
            trace_seconds=traced - start,
            compile_seconds=time.perf_counter() - traced,
        )
        self.run(1)

    def run(self, steps: int) -> float:
        """The loss of the last of `steps` steps."""
        for _ in range(steps):
            self._state, metrics = self._compiled(self._state, self._pixels, self._sample)
        return float(metrics["loss"])

    def peak_gib(self) -> float:
        """Peak memory of the first device, in GiB; NaN if the device does not count it."""
        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", float("nan")) / 2**30

    def compile_again(self) -> dict[str, float]:
        """Seconds to compile the step into an empty persistent cache ("cold") and back from it ("warm")."""
        seconds = {}
        with tempfile.TemporaryDirectory() as folder:
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            compilation_cache.reset_cache()
            for name in ("cold", "warm"):
                jax.clear_caches()
                lowered = self.training.step.lower(self._state, self._pixels, self._sample)
                start = time.perf_counter()
                lowered.compile()
                seconds[name] = time.perf_counter() - start
        return seconds

    def parts(self) -> dict[str, float]:
        """Milliseconds an image of the views, the backbone forward, forward and backward, the head, and the update."""
        step, state = self.training.pure_step, self.training.init()
        pixels, sample = jnp.asarray(self.images), jnp.arange(len(self.images), dtype=jnp.uint32)
        views = jax.jit(lambda x, s: dataclasses.replace(make_views(x, s, seed=0, recipe=step.method.recipe), crops=()))
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
            lr, weight_decay, momentum = (jnp.float32(value) for value in (1e-4, 0.05, 0.996))
            student = apply_update(
                state.student, direction, step=state.step, lr=lr, weight_decay=weight_decay, freeze_last_layer_steps=0
            )
            return ema_update(state.teacher, student, momentum=momentum)

        grid, width = crops.shape[1] // step.config.model.patch_size, step.config.model.width
        queries = (grid // step.config.objective.query_window) ** 2
        modes = jax.random.normal(jax.random.key(0), (len(crops) * queries, width))
        parts: dict[str, tuple[Any, ...]] = {
            "views": (views, pixels, sample),
            "forward, student views": (jax.jit(tokens), state.student, crops),
            "forward + backward": (jax.jit(jax.grad(lambda p, x: jnp.sum(tokens(p, x) ** 2))), state.student, crops),
            "head, both ways": (jax.jit(jax.grad(head)), state.student, modes),
            "clip, optimizer, EMA": (jax.jit(update), state),
        }
        return {
            name: 1e3 * _median_seconds(function, inputs) / len(pixels) for name, (function, *inputs) in parts.items()
        }

    def profile(self, folder: Path) -> list[tuple[str, float, int]]:
        """(name, milliseconds a step, calls a step) of what the device ran, longest first; the trace stays in the folder."""
        with jax.profiler.trace(str(folder)):
            self.run(_PROFILED_STEPS)
        return device_times(folder, steps=_PROFILED_STEPS)


def device_times(folder: Path, *, steps: int) -> list[tuple[str, float, int]]:
    """(name, milliseconds a step, calls a step) of the device's events in the newest trace below a folder."""
    newest = max(folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    events = json.loads(gzip.decompress(newest.read_bytes()))["traceEvents"]
    processes = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    threads = {
        (event["pid"], event["tid"]): event["args"]["name"] for event in events if event.get("name") == "thread_name"
    }
    milliseconds, calls = collections.Counter(), collections.Counter()
    for event in events:
        place = event.get("pid"), event.get("tid")
        on_device = "/device:" in processes.get(place[0], "") and "Stream" in threads.get(place, "")
        if event.get("ph") == "X" and on_device:
            milliseconds[event["name"]] += event["dur"] / 1e3 / steps
            calls[event["name"]] += 1
    return [(name, value, round(calls[name] / steps)) for name, value in milliseconds.most_common()]


def peak_flops() -> float:
    """The devices' peak; on an unknown device that of the best of ten large matrix products."""
    known = cost.peak_flops(jax.devices()[0].device_kind)
    if known is not None:
        return known * jax.device_count()
    side = 2048
    matrix = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(lambda x: x @ x)
    return 2 * side**3 / min(_seconds(product, [matrix]) for _ in range(11))


def _median_seconds(function: Callable[..., Any], inputs: Sequence[Any]) -> float:
    _seconds(function, inputs)
    return statistics.median(_seconds(function, inputs) for _ in range(_PART_CALLS))


def _seconds(function: Callable[..., Any], inputs: Sequence[Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start
