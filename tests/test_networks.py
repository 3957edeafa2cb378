"""The networks that a config describes."""

import numpy as np
import pytest
from flax import nnx

from configs import released_vits16, vits16
from flsl_jax.config import parse_config
from flsl_jax.networks import build_network


@pytest.mark.parametrize(("recipe", "length", "biased"), [(vits16, 0.32, False), (released_vits16, 0.577, True)])
def test_the_start_is_that_of_the_recipe(recipe, length, biased):
    config = recipe.get_config()
    config.model.depth, config.head.hidden = 1, 32
    network = build_network(parse_config(config.to_dict()), rngs=nnx.Rngs(0))
    columns = np.linalg.norm(network.head.last_layer.kernel[...], axis=0)
    np.testing.assert_allclose(columns.mean(), length, rtol=0.01)
    assert bool(np.asarray(network.backbone.patch_embed.proj.bias[...]).any()) == biased
