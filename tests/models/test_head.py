"""The projection head."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flsl_jax.models import Head

SIZE = {"width": 12, "hidden": 16, "bottleneck": 8, "centroids": 10}


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_equals_the_torch_twin(norm_last_layer):
    torch = pytest.importorskip("torch")
    from tests.models import torch_twin

    head = Head(**SIZE, norm_last_layer=norm_last_layer, rngs=nnx.Rngs(0))
    graph, state = nnx.split(head, nnx.Param)
    params = jax.tree.map(lambda x: x + 0.3 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), nnx.to_pure_dict(state))
    modes = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)
    expected = torch_twin.head(params, torch.tensor(modes)).numpy()
    np.testing.assert_allclose(nnx.merge(graph, params)(jnp.asarray(modes)), expected, rtol=1e-4, atol=1e-5)


def test_logits_are_cosines_whatever_the_scale_of_the_last_layer():
    head = Head(**SIZE, rngs=nnx.Rngs(0))
    modes = jax.random.normal(jax.random.key(0), (50, 12))
    logits = head(modes)
    assert float(jnp.abs(logits).max()) <= 1 + 1e-5
    head.last_layer.kernel[...] = head.last_layer.kernel[...] * 7.0
    np.testing.assert_allclose(head(modes), logits, rtol=1e-5, atol=1e-6)


def test_logits_are_float32_in_low_precision():
    head = Head(**SIZE, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert head(jnp.ones((3, 12))).dtype == jnp.float32


@pytest.mark.parametrize(("init", "length"), [("normal", 0.02 * 256**0.5), ("torch", 3**-0.5)])
def test_the_last_layer_starts_with_columns_of_the_length_that_is_documented(init, length):
    size = {"width": 12, "hidden": 16, "bottleneck": 256, "centroids": 500}
    head = Head(**size, last_layer_init=init, rngs=nnx.Rngs(0))
    kernel = np.asarray(head.last_layer.kernel[...])
    np.testing.assert_allclose(np.linalg.norm(kernel, axis=0).mean(), length, rtol=0.01)
    assert (np.abs(kernel).max() <= 1 / 16) == (init == "torch")


def test_only_the_last_layer_starts_otherwise():
    ours, theirs = (
        nnx.to_pure_dict(nnx.split(Head(**SIZE, last_layer_init=init, rngs=nnx.Rngs(0)), nnx.Param)[1])
        for init in ("normal", "torch")
    )
    assert not np.array_equal(ours.pop("last_layer")["kernel"], theirs.pop("last_layer")["kernel"])
    chex.assert_trees_all_equal(ours, theirs)
