"""Frames/s of video label propagation at DAVIS's 480p with a random network, and the time of each part.

    python -m benchmarks.video [--config=configs/vits16.py] [--frames=4] [--objects=3]

Everything is compiled beforehand; the context is full, as it is from the 8th frame of a video on. For each part
it prints the median over the frames, with the range, by the clock, and the CPU time of the process, which other programs on
the machine affect less; then their sum as frames/s, and the share of it that is the network's forward pass.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx
from ml_collections import config_flags

from flsl_jax.config import VideoConfig, parse_config
from flsl_jax.evaluation import propagation
from flsl_jax.evaluation.davis_metric import score_objects
from flsl_jax.evaluation.encoder import NetworkEncoder
from flsl_jax.networks import build_network

_CONFIG = config_flags.DEFINE_config_file("config", "configs/vits16.py", "Config with the network.")
_FRAMES = flags.DEFINE_integer("frames", 4, "Frames of every measurement.", lower_bound=1)
_OBJECTS = flags.DEFINE_integer("objects", 3, "Objects in the video.", lower_bound=1)
_SIZE, _ORIGINAL = (480, 832), (480, 854)


def measured(name: str, function: Callable[[], object]) -> float:
    """Prints one line and returns the median of the seconds that a call takes; the first call is not counted."""
    jax.block_until_ready(function())
    clock, processor = [], []
    for _ in range(_FRAMES.value):
        start, used = time.perf_counter(), time.process_time()
        jax.block_until_ready(function())
        clock.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - used))
    line = f"{name:<26}{statistics.median(clock):9.1f} ms a frame  ({min(clock):.1f} … {max(clock):.1f})"
    print(f"{line}{statistics.median(processor):12.1f} ms CPU", flush=True)
    return statistics.median(clock) / 1e3


def full_context(tokens: jax.Array, mask: np.ndarray, *, settings: VideoConfig) -> propagation.Context:
    """A context whose every slot holds a frame."""
    height, width, _ = tokens.shape
    labels = propagation.first_labels(mask, grid=(height, width), channels=8)
    context = propagation.start(tokens, labels, context=settings.context)
    everywhere = (1 + settings.context, 1, 1, 1)
    return dataclasses.replace(
        context,
        features=jnp.tile(context.features[:1], everywhere),
        labels=jnp.tile(context.labels[:1], everywhere),
        filled=jnp.ones_like(context.filled),
    )


def main(arguments: Sequence[str]) -> None:
    """Measures part after part."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    settings, config = VideoConfig(), parse_config(_CONFIG.value)
    encoder = NetworkEncoder(build_network(config, rngs=nnx.Rngs(0)).backbone, name="random")
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (1, *_ORIGINAL, 3), dtype=np.uint8)
    blocks = rng.integers(0, _OBJECTS.value + 1, (6, 7), dtype=np.uint8)
    mask = np.repeat(np.repeat(blocks, 80, axis=0), 122, axis=1)[: _ORIGINAL[0], : _ORIGINAL[1]]
    grid = tuple(side // encoder.patch_size for side in _SIZE)
    print(f"{grid[0]} × {grid[1]} tokens on {jax.devices()[0].device_kind}, JAX {jax.__version__}")

    def resized() -> jax.Array:
        return propagation.resize_frames(frame, height=_SIZE[0], width=_SIZE[1])

    images = resized()
    tokens = encoder.tokens(images)[0]
    context = full_context(tokens, mask, settings=settings)

    def follow() -> jax.Array:
        nonlocal context
        context, labels = propagation.follow(
            context, tokens, radius=settings.radius, top_k=settings.top_k, temp=settings.temp
        )
        return labels

    labels = follow()
    ids = np.asarray(propagation.to_pixels(labels, patch_size=encoder.patch_size))
    whole = propagation.to_size(ids, height=_ORIGINAL[0], width=_ORIGINAL[1])
    parts = {
        "resize": resized,
        "forward pass": lambda: encoder.tokens(images),
        "labels from the context": follow,
        "labels to pixels": lambda: propagation.to_pixels(labels, patch_size=encoder.patch_size),
        "J and F": lambda: score_objects(mask[None], whole[None], num_objects=_OBJECTS.value),
    }
    seconds = {name: measured(name, function) for name, function in parts.items()}
    total = sum(seconds.values())
    print(f"{1 / total:.2f} frames/s; {100 * seconds['forward pass'] / total:.0f} % of the time is the forward pass")


if __name__ == "__main__":
    app.run(main)
