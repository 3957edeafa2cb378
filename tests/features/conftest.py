"""A tiny run and a photo in a folder of their own, as the docstrings' examples name them."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from flsl_jax.checkpoints import Checkpoints
from flsl_jax.config import to_dict
from flsl_jax.networks import build_network
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A folder with `runs/mine`, a checkpoint of a random network with large weights, and `photo.jpg`, 90×60 pixels."""
    folder = tmp_path_factory.mktemp("features")
    config = tiny_config()
    params = nnx.to_pure_dict(nnx.split(build_network(config, rngs=nnx.Rngs(0)), nnx.Param)[1])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    params = jax.tree.unflatten(
        tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys)]
    )
    checkpoints = Checkpoints(folder / "runs" / "mine" / "checkpoints", keep=1)
    checkpoints.save(5, {"teacher": params, "student": params}, run={"config": to_dict(config), "step": 5})
    checkpoints.close()
    (folder / "runs" / "mine" / "config.json").write_text(json.dumps(to_dict(config)))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    Image.fromarray(pixels).save(folder / "photo.jpg", quality=95)
    return folder
