"""A run's workdir with random weights, written on eight devices, and its outputs, for the tests of conversion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax import parallel
from flsl_jax.checkpoints import Checkpoints
from flsl_jax.config import ParallelConfig, to_dict
from flsl_jax.models import Architecture
from flsl_jax.networks import build_network
from flsl_jax.weights.export import parity
from flsl_jax.weights.layouts import LAYOUTS
from tests.tiny import tiny_config

STEP = 7
SIZES = [(224, 224), (160, 288)]
SHAPE = {"width": 32, "depth": 2, "heads": 4, "patch": 16, "side": 14}

# The formats that hold a network without prefix tokens, and what a ViT-S of the others has.
PLAIN = [name for name, layout in LAYOUTS.items() if not layout.min_prefix]
_DINOV2 = {"patch_size": 14, "grid": (37, 37), "layer_scale": True}
_PUBLISHED = {"dinov2": {"num_prefix": 1, **_DINOV2}, "dinov2-registers": {"num_prefix": 5, **_DINOV2}}
_PUBLISHED["dinov3"] = {"num_prefix": 5, "layer_scale": True, "norm_eps": 1e-5, "pos_embed": "rope"}
_PUBLISHED["dinov3"]["rope_periods"] = tuple(100.0 ** (n / 16) for n in range(16))


def vit_small(name):
    """The ViT-S that a format is shown with: of patch 16, or as it is published where that has prefix tokens."""
    plain = {"patch_size": 16, "width": 384, "depth": 12, "num_heads": 6}
    return Architecture(**plain | _PUBLISHED.get(name, {}))


def small_config(**model):
    return tiny_config(
        model={"patch_size": 16, "width": 32, "depth": 2, "num_heads": 4, **model},
        head={"hidden": 24, "bottleneck": 16, "centroids": 40},
        views={"size": 224, "local_size": 96},
    )


def write_run(workdir, config):
    """A committed checkpoint with two random networks, sharded over eight devices by FSDP; returns the workdir."""
    empty = nnx.to_pure_dict(nnx.eval_shape(lambda: nnx.split(build_network(config, rngs=nnx.Rngs(0)), nnx.Param)[1]))
    rng = np.random.default_rng(0)

    def filled(path, leaf):
        """Norms near one, the rest large enough for attention to tell its tokens apart."""
        mean = float(jax.tree_util.keystr(path).endswith("['scale']"))
        return jnp.asarray(rng.normal(mean, 0.25, leaf.shape), jnp.float32)

    state = {name: jax.tree_util.tree_map_with_path(filled, empty) for name in ("student", "teacher")}
    state["step"] = jnp.asarray(STEP, jnp.int32)
    mesh = parallel.make_mesh(ParallelConfig(fsdp=8))
    state = jax.device_put(state, parallel.state_shardings(state, mesh=mesh))
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    checkpoints.save(STEP, state, run={"config": to_dict(config), "step": STEP})
    checkpoints.close()
    return workdir


def place(folder, name, suffix=".safetensors"):
    return folder / (name if LAYOUTS[name].kind == "folder" else f"{name}{suffix}")


def images(size):
    return np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)


def expected(trained, size, **changes):
    """Our own network's outputs, in turn after each block and at the end."""
    arch = dataclasses.replace(trained.architecture, **changes)
    outputs = parity.forward(trained.backbones["teacher"], arch)(images(size))
    return [*outputs.blocks, outputs.tokens]


def assert_equal_outputs(found, wanted):
    for ours, theirs in zip(wanted, found, strict=True):
        np.testing.assert_allclose(np.asarray(theirs), ours, rtol=1e-4, atol=1e-4)
