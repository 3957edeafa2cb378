"""Images/s of the views that the accelerator makes, for both recipes, and of the parts of a view.

    python -m benchmarks.views [--batch=16] [--size=224] [--rounds=5]

Everything is jitted and compiled beforehand. It prints the median of the rounds by the clock, with the range; on a CPU
also the CPU time of the process, which other programs on the machine affect less.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from absl import app, flags

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.data import pixels
from flsl_jax.data.resample import crop_resize
from flsl_jax.data.views import ViewRecipe, Views, make_views
from flsl_jax.training.setup import view_recipe

_BATCH = flags.DEFINE_integer("batch", 16, "Images a call.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 224, "Height and width of the base crops in pixels.", lower_bound=8)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed calls of every part.", lower_bound=1)


def report(name: str, function: Callable[..., object], *arguments: jax.Array) -> None:
    """Prints one line: how many images a second the jitted function takes."""
    jitted = jax.jit(function)
    start = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(*arguments))
    clock, processor = [], []
    for _ in range(_ROUNDS.value):
        start, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arguments))
        clock.append(_BATCH.value / (time.perf_counter() - start))
        processor.append((time.process_time() - used) / _BATCH.value)
    line = f"{name:<18}{statistics.median(clock):9.0f} images/s  ({min(clock):.0f} … {max(clock):.0f})"
    if jax.default_backend() == "cpu":
        line += f"{1e3 * statistics.median(processor):9.2f} ms CPU an image"
    print(f"{line}   compiled in {compile_seconds:.1f} s", flush=True)


def _views(images: jax.Array, sample: jax.Array, *, recipe: ViewRecipe) -> Views:
    """The views as a step without a guide makes them."""
    return dataclasses.replace(make_views(images, sample, seed=0, recipe=recipe), crops=())


def main(arguments: Sequence[str]) -> None:
    """Measures both recipes, then a crop, a jitter and a blur alone."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    batch, size = _BATCH.value, _SIZE.value
    levels = jax.random.randint(jax.random.key(0), (batch, size, size, 3), 0, 256)
    images, sample = levels.astype(jnp.uint8), jnp.arange(batch, dtype=jnp.uint32)
    print(f"{batch} images of {size} × {size} pixels on {jax.devices()[0].device_kind}, JAX {jax.__version__}")
    usual = parse_config(vits16.get_config().to_dict()).views
    local_size = size * usual.local_size // usual.size
    for name in ("paper", "released"):
        settings = dataclasses.replace(usual, recipe=name, size=size, local_size=local_size)
        report(f"{name} recipe", functools.partial(_views, recipe=view_recipe(settings)), images, sample)
    floats, ones = levels.astype(jnp.float32), jnp.ones(batch)
    box = jnp.broadcast_to(jnp.asarray([0.1, 0.0, 0.9, 0.8]) * size, (batch, 4)).round()
    report("crop, one view", functools.partial(crop_resize, size=size), floats, box)

    def jitter(image: jax.Array, factor: jax.Array) -> jax.Array:
        order = jnp.broadcast_to(jnp.arange(4), (batch, 4))
        return pixels.color_jitter(
            image, order=order, brightness=1.1 * factor, contrast=factor, saturation=0.9 * factor, hue=0.05 * factor
        )

    report("jitter, one view", jitter, floats, ones)
    report("blur, one view", functools.partial(pixels.gaussian_blur, max_sigma=2.0), floats, ones)


if __name__ == "__main__":
    app.run(main)
