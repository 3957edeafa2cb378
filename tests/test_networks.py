"""The networks that a config describes."""

import numpy as np
import pytest
from flax import nnx

from configs import released_vits16, vits16
from flsl_jax.config import parse_config
from flsl_jax.networks import build_network, for_backend
from tests.tiny import tiny_config


@pytest.mark.parametrize(("recipe", "length", "biased"), [(vits16, 0.32, False), (released_vits16, 0.577, True)])
def test_the_start_is_that_of_the_recipe(recipe, length, biased):
    config = recipe.get_config()
    config.model.depth, config.head.hidden = 1, 32
    network = build_network(parse_config(config.to_dict()), rngs=nnx.Rngs(0))
    columns = np.linalg.norm(network.head.last_layer.kernel[...], axis=0)
    np.testing.assert_allclose(columns.mean(), length, rtol=0.01)
    assert bool(np.asarray(network.backbone.patch_embed.proj.bias[...]).any()) == biased


@pytest.mark.parametrize(
    ("backend", "remat", "scan_blocks", "expected"),
    [
        ("tpu", "none", "auto", "scan"),
        ("gpu", "none", "auto", "unroll"),
        ("cpu", "none", "auto", "unroll"),
        ("gpu", "dots", "auto", "scan"),
        ("cpu", "full", "auto", "scan"),
        ("gpu", "full", "unroll", "unroll"),
    ],
)
def test_blocks_are_a_loop_where_it_saves_memory_or_is_asked_for(backend, remat, scan_blocks, expected):
    config = tiny_config(compute={"remat": remat, "scan_blocks": scan_blocks})
    assert for_backend(config, backend).compute.scan_blocks == expected
