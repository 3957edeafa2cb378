"""Pretrained networks of a few blocks with large random weights, so that no term hides behind small ones."""

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.load import Loaded


def tiny_loaded(*, patch_size=16, seed=0, **changes) -> Loaded:
    """A network of four blocks and width 16; `changes` go to its architecture."""
    shape = {"width": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2, "grid": (4, 4)}
    model = ViT(Architecture(patch_size=patch_size, **shape | changes), rngs=nnx.Rngs(seed))
    graph, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(key, leaf.shape, jnp.float32) for key, leaf in zip(keys, leaves)]
    return Loaded(model=nnx.merge(graph, jax.tree.unflatten(tree, moved)), report="tiny")
