"""Networks of a few blocks in place of pretrained ones, by default with weights so large that no term hides."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.features import as_backbone
from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.load import Loaded


def tiny_loaded(*, patch_size=16, seed=0, noise=0.2, **changes) -> Loaded:
    """A network of four blocks and width 16; `noise` is the size of its weights; `changes` go to its architecture."""
    shape = {"width": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2, "grid": (4, 4)}
    architecture = Architecture(patch_size=patch_size, **shape | changes)
    graph, params = nnx.split(nnx.eval_shape(lambda: ViT(architecture, rngs=nnx.Rngs(0))), nnx.Param)
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        around_one = "scale" in jax.tree_util.keystr(path) or "gamma" in jax.tree_util.keystr(path)
        return jnp.asarray(around_one + noise * rng.normal(size=leaf.shape), jnp.float32)

    return as_loaded(nnx.merge(graph, jax.tree_util.tree_map_with_path(fill, params)))


def as_loaded(model, *, report="tiny"):
    """What opening a file with this network would give."""
    return Loaded(model=as_backbone(model, mean=IMAGENET_MEAN, std=IMAGENET_STD), report=report)
