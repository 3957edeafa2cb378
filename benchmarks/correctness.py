"""Whether this machine computes what a CPU computed: five training steps of ViT-S/16 and the tokens of fixed images.

    python -m benchmarks.correctness                    # against benchmarks/reference.json; exit code 1 if it differs
    python -m benchmarks.correctness --dtypes=float32   # on a machine that has no fast bfloat16
    python -m benchmarks.correctness --write            # on a CPU: writes a new reference, in float32

Losses, gradient norms and tokens are compared as shares of the reference (tokens: of their largest value), against the
stated tolerances. "float32" sets the highest precision of products, "default" leaves float32 products to the device: TF32
on an NVIDIA GPU since Ampere, bfloat16 operands on a TPU.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from flax import nnx

from benchmarks.sides import Opening
from configs import vits16
from flsl_jax import parallel
from flsl_jax.config import Config, parse_config
from flsl_jax.training.setup import build_training

_WRITE = flags.DEFINE_bool("write", False, "Write the reference instead of comparing with it.")
_DTYPES = flags.DEFINE_list(
    "dtypes", ["float32", "default", "bfloat16"], 'Of "float32", "default", "bfloat16", "cudnn".'
)
_REFERENCE = flags.DEFINE_string("reference", "benchmarks/reference.json", "File with the reference.")

_STEPS, _BATCH = 5, 4
_TERMS = ("loss", "intra", "inter", "volume", "grad_norm")
# Largest differences that pass, as shares of the reference: of the loss and its terms, the gradients' norm, the tokens.
# float32: sums in another order, and a grey level of a view here and there. bfloat16 keeps 8 bits of every product's operands
# (2⁻⁹ each, rounded), TF32 11; the intra-view term is a small difference of large numbers.
_TOLERANCES = {
    "float32": {"loss": 1e-4, "intra": 1e-3, "inter": 1e-4, "volume": 1e-2, "grad_norm": 2e-3, "tokens": 1e-3},
    "default": {"loss": 3e-4, "intra": 3e-3, "inter": 3e-4, "volume": 1e-2, "grad_norm": 5e-3, "tokens": 1e-2},
    "bfloat16": {"loss": 1e-3, "intra": 1e-2, "inter": 1e-3, "volume": 3e-2, "grad_norm": 2e-2, "tokens": 4e-2},
}
_TOLERANCES["cudnn"] = _TOLERANCES["bfloat16"]


def case(dtype: str) -> Config:
    """ViT-S/16 at 224 px, four images, no warm-up, so that every step moves the parameters."""
    values = vits16.get_config().to_dict()
    values["batch_size"] = _BATCH
    values["optimizer"] |= {"warmup_epochs": 0.0, "freeze_last_layer_epochs": 0.0}
    values["compute"] |= {
        "dtype": "bfloat16" if dtype in ("bfloat16", "cudnn") else "float32",
        "attention": "cudnn" if dtype == "cudnn" else "xla",
    }
    return parse_config(values)


def smooth_images(seed: int) -> np.ndarray:
    """Images with structure at every scale, so that attention and the views' resize have something to do."""
    rng = np.random.default_rng(seed)
    coarse = [
        rng.uniform(0, 1, (_BATCH, side, side, 3)).repeat(224 // side, 1).repeat(224 // side, 2) for side in (4, 14, 56)
    ]
    return (255 * np.sum(coarse, axis=0) / len(coarse)).astype(np.uint8)


def measure(dtype: str) -> dict[str, Any]:
    """The terms of every step, and some tokens of the network before the first."""
    with jax.default_matmul_precision("highest" if dtype == "float32" else None):
        config = case(dtype)
        training = build_training(config, mesh=parallel.make_mesh(config.parallel), steps_per_epoch=100)
        state = training.init()
        backbone = lambda params, x: nnx.merge(training.pure_step.graph, params).backbone(x)  # noqa: E731
        pixels = jnp.asarray(smooth_images(1000), jnp.float32) / 127.5 - 1.0
        tokens = np.asarray(jax.jit(backbone)(state.student, pixels))[0, ::4, ::4, ::48]
        history: dict[str, list[float]] = {name: [] for name in _TERMS}
        for step in range(_STEPS):
            sample = np.arange(step * _BATCH, (step + 1) * _BATCH, dtype=np.uint32)
            batch = (parallel.to_devices(x, training.batch_sharding) for x in (smooth_images(step), sample))
            state, metrics = training.step(state, *batch)
            for name in _TERMS:
                history[name].append(float(metrics[name]))
    return {**history, "tokens": [round(float(value), 6) for value in tokens.ravel()]}


class Measured:
    """What one precision gives, measured in a process of its own (see `benchmarks.sides`)."""

    def __init__(self, dtype: str) -> None:
        self.facts = {"device": f"{jax.devices()[0].device_kind}, JAX {jax.__version__}", **measure(dtype)}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One quantity: its largest difference as a share of the reference, and what passes."""

    name: str
    share: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return self.share <= self.tolerance  # False for NaN


def compare(ours: dict[str, Any], reference: dict[str, Any], *, dtype: str) -> list[Difference]:
    """Every quantity's difference."""
    rows = []
    for name, tolerance in _TOLERANCES[dtype].items():
        value, expected = np.asarray(ours[name]), np.asarray(reference[name])
        scale = np.abs(expected).max() if name == "tokens" else np.abs(expected)
        rows.append(Difference(name, float(np.max(np.abs(value - expected) / scale)), tolerance))
    return rows


def main(arguments: Sequence[str]) -> int:
    """Writes the reference, or compares with it."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    logging.set_verbosity(logging.ERROR)
    path = Path(_REFERENCE.value)
    if _WRITE.value:
        made_on = f"{jax.devices()[0].device_kind}, JAX {jax.__version__}"
        path.write_text(json.dumps({"made_on": made_on, **measure("float32")}, indent=1) + "\n")
        return 0
    reference, failed = json.loads(path.read_text()), False
    # At once, as compiling takes most of the time; each takes what it needs of a GPU, and not three quarters of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for opening in [Opening(dtype, Measured, dtype) for dtype in _DTYPES.value]:
        try:
            side = opening.ready()
        except RuntimeError as error:  # the other precisions are still worth their comparison
            print(error, flush=True)
            failed = True
            continue
        print(f"{opening.name} on {side.facts['device']}, against {reference['made_on']}")
        side.close()
        rows = compare(side.facts, reference, dtype=opening.name)
        for row in rows:
            verdict = "ok" if row.passes else "DIFFERS"
            print(f"  {row.name:<10}{row.share:10.2e} of at most {row.tolerance:.0e}  {verdict}", flush=True)
        failed |= not all(row.passes for row in rows)
    return int(failed)


if __name__ == "__main__":
    app.run(main)
