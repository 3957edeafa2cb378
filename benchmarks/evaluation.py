"""Evaluation: compares the loop that encodes with the forward pass alone, and the search with a plain matrix product.

python -m benchmarks.evaluation --images=128 --rounds=3
"""

import dataclasses
import io
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from PIL import Image

from flsl_jax.command_line import run_main
from flsl_jax.data.records import Record
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.box_features import encode_boxes
from flsl_jax.evaluation.encoder import NetworkEncoder
from flsl_jax.evaluation.protocols.bbox_knn import boxed_images
from flsl_jax.evaluation.reading import ImageStream
from flsl_jax.host_memory import keep_host_memory
from flsl_jax.models import Architecture, ViT

_IMAGES = flags.DEFINE_integer("images", 128, "Images encoded.", 1)
_BATCH = flags.DEFINE_integer("batch", 16, "Images encoded at a time.", 1)
_SIZE = flags.DEFINE_integer("size", 224, "Height and width in pixels.", 16)
_WIDTH = flags.DEFINE_integer("width", 384, "Channels.", 64)
_DEPTH = flags.DEFINE_integer("depth", 12, "Blocks.", 1)
_BANK = flags.DEFINE_integer("bank", 65536, "Features of the bank.", 1)
_QUERIES = flags.DEFINE_integer("queries", 1017, "Features to look up, a multiple of 9.", 9)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the bank.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each, in turns.", 1)


class Jpegs:
    """Scenes as JPEG files of this size, held in memory, with their boxes."""

    name = "JPEG scenes"

    def __init__(self, *, count: int, size: int) -> None:
        scenes = Scenes(count=count, size=size, split="train")
        self.class_names, self.digest = scenes.class_names, scenes.digest
        self._records = []
        for record in (scenes[index] for index in range(count)):
            buffer = io.BytesIO()
            Image.fromarray(np.asarray(record.image)).save(buffer, "JPEG", quality=90)
            self._records.append(dataclasses.replace(record, image=buffer.getvalue()))

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


def in_turns(sides: Mapping[str, Callable[[], None]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side, in turns, after one call of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def encoding() -> dict[str, list[float]]:
    """Images/s of decode, crop, forward pass, selection and fetching, and of the forward pass alone on the same images."""
    grid = _SIZE.value // 16
    model = ViT(
        Architecture(
            patch_size=16, width=_WIDTH.value, depth=_DEPTH.value, num_heads=_WIDTH.value // 64, grid=(grid, grid)
        ),
        rngs=nnx.Rngs(0),
    )
    encoder = NetworkEncoder(model, name="random")
    source = Jpegs(count=_IMAGES.value, size=_SIZE.value * 3 // 2)

    def stream() -> ImageStream:
        return boxed_images(source, size=_SIZE.value, patch_size=encoder.patch_size)

    batches = [batch[0] for batch in stream().batches(_BATCH.value) if len(batch[0]) == _BATCH.value]

    def loop() -> None:
        list(encode_boxes(encoder, stream(), batch_size=_BATCH.value, inv_temp=0.005))

    def forward() -> None:
        jax.block_until_ready([encoder.tokens(images) for images in batches])

    seconds = in_turns({"loop": loop, "forward": forward}, rounds=_ROUNDS.value)
    counts = {"loop": _IMAGES.value, "forward": sum(map(len, batches))}
    return {name: [counts[name] / second for second in measured] for name, measured in seconds.items()}


def search() -> dict[str, list[float]]:
    """GFLOP/s of the whole search (products, top-k, votes) and of the same product alone."""
    rng = np.random.default_rng(0)
    bank, queries = (_unit(rng, rows, _WIDTH.value) for rows in (_BANK.value, _QUERIES.value))
    bank, queries = (features.astype(jnp.dtype(_DTYPE.value)) for features in (bank, queries))
    placed = Bank.place([bank], rng.integers(0, 100, len(bank)))
    groups = queries.reshape(-1, 9, _WIDTH.value)
    first, second = jax.device_put((queries, bank))
    product = jax.jit(
        lambda a, b: jnp.max(jnp.matmul(a, b.T, precision="highest", preferred_element_type=jnp.float32), axis=1)
    )
    sides = {
        "search": lambda: placed.vote([groups], k=140, temp=0.07, num_classes=100),
        "product": lambda: jax.block_until_ready(product(first, second)),
    }
    flops = 2 * len(bank) * len(queries) * _WIDTH.value
    seconds = in_turns(sides, rounds=_ROUNDS.value)
    return {name: [flops / second / 1e9 for second in measured] for name, measured in seconds.items()}


def _unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    features = rng.standard_normal((rows, width), np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def main() -> int:
    """Prints both comparisons: medians with their ranges."""
    keep_host_memory()
    print(f"{jax.local_device_count()} × {jax.devices()[0].device_kind}")
    for title, unit, measured in (("encoding", "images/s", encoding()), ("search", "GFLOP/s", search())):
        medians = {name: statistics.median(rates) for name, rates in measured.items()}
        for name, rates in measured.items():
            print(f"{title}: {name} {medians[name]:.1f} {unit} ({min(rates):.1f} … {max(rates):.1f})")
        ours, alone = medians.values()
        print(f"{title}: {ours / alone:.0%}")
    return 0


if __name__ == "__main__":
    run_main(main)
