"""Attention and its derivative, which is written out, against JAX's and against float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.models import attention
from flsl_jax.models.attention import attend


def test_attention_equals_jax_and_stays_finite_for_large_logits():
    query, key, value = jax.random.normal(jax.random.key(0), (3, 2, 7, 2, 8))

    def both(function, query):
        return jax.value_and_grad(lambda *qkv: jnp.sum(jnp.sin(function(*qkv))), argnums=(0, 1, 2))(query, key, value)

    chex.assert_trees_all_close(both(attend, query), both(jax.nn.dot_product_attention, query), atol=2e-6)
    chex.assert_tree_all_finite(both(attend, 1e4 * query))


def exact_attention(query, key, value):
    """The equation, in float64 NumPy arrays on which JAX differentiates."""
    logits = jnp.einsum("bnhd,bmhd->bhnm", query, key) * query.shape[-1] ** -0.5
    return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), value)


def outputs_and_gradients(function, arrays, cotangent):
    result, backward = jax.vjp(function, *arrays)
    return result, *backward(cotangent.astype(result.dtype))


@pytest.mark.parametrize(("dtype", "error"), [("float64", 1e-13), ("float32", 2e-6), ("bfloat16", 1.2e-2)])
def test_outputs_and_gradients_are_those_of_the_equation_in_float64(dtype, error):
    """Relative to each array's largest value; sharp and soft attention together."""
    rng = np.random.default_rng(0)
    shape = (2, 50, 3, 16)
    query, key, value, cotangent = (rng.normal(size=shape) for _ in range(4))
    query *= np.linspace(0.1, 4.0, 50)[None, :, None, None]
    with jax.enable_x64(True):
        narrow = [jnp.asarray(x).astype(dtype) for x in (query, key, value, cotangent)]
        wide = [x.astype(jnp.float64) for x in narrow]
        exact = outputs_and_gradients(exact_attention, wide[:3], wide[3])
        ours = outputs_and_gradients(attend, narrow[:3], narrow[3])
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.dtype(dtype)
        one, other = np.asarray(one).astype(np.float64), np.asarray(other)
        assert np.abs(one - other).max() < error * np.abs(other).max()


def test_the_backward_pass_keeps_one_copy_of_the_weights_in_bfloat16():
    arrays = [jax.ShapeDtypeStruct((2, 64, 2, 4), jnp.bfloat16)] * 3
    kept = jax.tree.leaves(jax.eval_shape(lambda *qkv: jax.vjp(attend, *qkv)[1], *arrays))
    weights = [leaf.dtype for leaf in kept if leaf.shape == (4, 64, 64)]
    assert weights == [jnp.bfloat16]


SHAPE = {"tokens": 16, "heads": 2, "channels": 8}


def test_cudnn_is_not_used_where_it_cannot_run(caplog):
    with caplog.at_level("INFO"):
        assert not attention.cudnn_attends(**SHAPE)
    assert "cuDNN's attention cannot be used here: " in caplog.text


@pytest.mark.parametrize(("factor", "used"), [(1.0, True), (1.01, True), (1.2, False), (np.nan, False)])
def test_cudnn_is_used_where_it_computes_what_ours_does(monkeypatch, factor, used):
    monkeypatch.setattr(attention, "attend_by_cudnn", lambda query, key, value: attend(query, key, factor * value))
    assert attention.cudnn_attends(**SHAPE) == used
