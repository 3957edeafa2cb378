"""The layers, whose derivatives are written out, against float64 and JAX's own derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flsl_jax.models.layers import Linear, gelu, layer_norm, linear, linear_of_gelu, plus, times

SHARES = np.array([0, 0.25, 0.5, 0.75, 1])
EVEN = 2 * SHARES - 1


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (8, 3)])
@pytest.mark.parametrize("lead", [(), (5,), (2, 4)])
def test_linear_and_its_gradients_equal_numpy(inputs, outputs, lead):
    rng = np.random.default_rng(0)
    x, kernel, bias, cotangent = (
        rng.normal(size=s) for s in ((*lead, inputs), (inputs, outputs), outputs, (*lead, outputs))
    )
    with jax.enable_x64(True):
        arrays = map(jnp.asarray, (x, kernel, bias))
        result, backward = jax.vjp(lambda x, kernel, bias: linear(x, kernel=kernel, bias=bias), *arrays)
        gradients = backward(jnp.asarray(cotangent))
    rows, towards = x.reshape(-1, inputs), cotangent.reshape(-1, outputs)
    expected = (x @ kernel + bias, cotangent @ kernel.T, rows.T @ towards, towards.sum(axis=0))
    chex.assert_trees_all_close((result, *gradients), expected, rtol=1e-12, atol=1e-12)


def gradients_in(dtype, function, x, *params, cotangent):
    """The gradients of `function(x, *params)`, with x in a dtype and the parameters as they are."""
    result, backward = jax.vjp(function, jnp.asarray(x, dtype), *map(jnp.asarray, params))
    assert result.dtype == dtype
    return backward(jnp.asarray(cotangent, dtype))


def largest_error(ours, exact):
    exact = np.asarray(exact, np.float64)
    return np.abs(np.asarray(ours, np.float64) - exact).max() / np.abs(exact).max()


LAYERS = {
    "linear": (lambda x, kernel, bias: linear(x, kernel=kernel, bias=bias), ((48, 96), (96,)), 96),
    "linear, narrowing": (lambda x, kernel, bias: linear(x, kernel=kernel, bias=bias), ((48, 24), (24,)), 24),
    "linear of gelu": (lambda x, kernel, bias: linear_of_gelu(x, kernel=kernel, bias=bias), ((48, 24), (24,)), 24),
    "plus": (plus, ((48,),), 48),
    "plus a row of vectors": (plus, ((4, 48),), 48),
    "times": (times, ((48,),), 48),
}


@pytest.mark.parametrize("name", LAYERS)
def test_parameters_of_a_bfloat16_network_have_float32_gradients(name):
    """Of 8,192 rows, against float64. Summed in bfloat16 they were up to 3 % off; what is left is from the factors."""
    function, shapes, outputs = LAYERS[name]
    rng = np.random.default_rng(0)
    x, cotangent = (np.asarray(jnp.asarray(rng.normal(size=(2048, 4, n)), jnp.bfloat16)) for n in (48, outputs))
    params = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    narrow = gradients_in(jnp.bfloat16, function, x, *params, cotangent=cotangent)
    with jax.enable_x64(True):
        wide = [np.asarray(param, np.float64) for param in params]
        exact = gradients_in(jnp.float64, function, x, *wide, cotangent=cotangent)
    assert narrow[0].dtype == jnp.bfloat16
    for ours, expected in zip(narrow[1:], exact[1:], strict=True):
        assert ours.dtype == jnp.float32
        assert largest_error(ours, expected) < (2e-3 if "gelu" in name else 2e-6)
    assert largest_error(narrow[0], exact[0]) < 2e-2


def test_gelu_and_the_layer_after_it_are_as_without_a_derivative_of_their_own():
    rng = np.random.default_rng(0)
    x, kernel, bias, cotangent = (jnp.asarray(rng.normal(size=s)) for s in ((6, 8), (8, 5), (5,), (6, 5)))
    for dtype in (jnp.float32, jnp.bfloat16):
        both = [
            jax.vjp(lambda x, k, b, f=f: f(x, k, b), x.astype(dtype), kernel, bias)
            for f in (
                lambda x, k, b: linear_of_gelu(x, kernel=k, bias=b),
                lambda x, k, b: linear(gelu(x), kernel=k, bias=b),
            )
        ]
        (ours, backward), (theirs, expected) = both
        chex.assert_trees_all_equal(ours, theirs)
        chex.assert_trees_all_equal(backward(cotangent.astype(dtype)), expected(cotangent.astype(dtype)))


def plain_layer_norm(x, *, scale, bias, eps):
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred / jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps) * scale + bias


def result_and_gradients(function, x, scale, bias, cotangent):
    result, backward = jax.vjp(lambda x, scale, bias: function(x, scale=scale, bias=bias, eps=1e-3), x, scale, bias)
    return result, *backward(cotangent.astype(result.dtype))


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e3])
def test_layer_norm_and_its_gradients_equal_those_of_the_equation_in_float64(lead, spread):
    rng = np.random.default_rng(0)
    x = 3.0 * spread + spread * rng.normal(size=(*lead, 16))
    values = (x, 1.0 + rng.normal(size=16), rng.normal(size=16), rng.normal(size=(*lead, 16)))
    values = tuple(value.astype(np.float32) for value in values)
    with jax.enable_x64(True):
        expected = result_and_gradients(plain_layer_norm, *(jnp.asarray(value, jnp.float64) for value in values))
    ours = result_and_gradients(layer_norm, *map(jnp.asarray, values))
    for one, other in zip(ours, expected):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * float(np.abs(other).max()))


def test_layer_norm_in_bfloat16_keeps_float32_inside():
    x, cotangent = (jax.random.normal(jax.random.key(key), (64, 32)).astype(jnp.bfloat16) for key in (0, 1))
    scale, bias = jnp.linspace(0.5, 1.5, 32), jnp.linspace(-1.0, 1.0, 32)
    wide = result_and_gradients(layer_norm, x.astype(jnp.float32), scale, bias, cotangent)
    narrow = result_and_gradients(layer_norm, x, scale, bias, cotangent)
    assert [value.dtype for value in narrow] == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    chex.assert_trees_all_close(narrow[2:], wide[2:], rtol=1e-6)
    for one, other in zip(narrow[:2], wide[:2]):  # rounded once, at the end
        np.testing.assert_array_equal(one, other.astype(jnp.bfloat16))


def test_gelu_and_its_derivative_equal_jax():
    with jax.enable_x64(True):
        x = jnp.linspace(-12.0, 12.0, 241)
        exact = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
        for ours, theirs in [(gelu, exact), (jax.grad(gelu), jax.grad(exact))]:
            np.testing.assert_allclose(jax.vmap(ours)(x), jax.vmap(theirs)(x), rtol=0, atol=1e-15)


def test_gelu_in_bfloat16_is_rounded_once():
    """gelu(−3.5) = −0.00081 was 0, because 1 + erf was rounded before it was multiplied."""
    x = jnp.linspace(-6.0, 6.0, 4001).astype(jnp.bfloat16)
    cotangent = jnp.linspace(0.5, 2.0, 4001).astype(jnp.bfloat16)
    (ours, backward), (wide, slope) = (jax.vjp(gelu, x.astype(dtype)) for dtype in (jnp.bfloat16, jnp.float32))
    np.testing.assert_array_equal(ours, wide.astype(jnp.bfloat16))
    np.testing.assert_array_equal(backward(cotangent)[0], slope(cotangent.astype(jnp.float32))[0].astype(jnp.bfloat16))
    assert float(gelu(jnp.bfloat16(-3.5))) == pytest.approx(-0.00081, rel=0.01)


@pytest.mark.parametrize("inputs", [48, 768])
def test_torchs_start_is_uniform_within_one_over_the_root_of_the_inputs(inputs):
    layer = Linear(inputs, 400, init="torch", stack=2, rngs=nnx.Rngs(0))
    assert (layer.kernel.shape, layer.bias.shape) == ((2, inputs, 400), (2, 400))
    for values in map(np.ravel, (layer.kernel[...], layer.bias[...])):
        np.testing.assert_allclose(np.quantile(values * inputs**0.5, SHARES), EVEN, atol=0.1)


def test_torchs_start_is_that_of_its_linear_and_of_its_convolution():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = Linear(3 * 4**2, 400, init="torch", rngs=nnx.Rngs(0))
    for theirs in (torch.nn.Linear(3 * 4**2, 400), torch.nn.Conv2d(3, 400, 4, 4)):
        for ours, tensor in ((layer.kernel, theirs.weight), (layer.bias, theirs.bias)):
            expected = np.quantile(tensor.detach().numpy(), SHARES)
            np.testing.assert_allclose(np.quantile(np.asarray(ours[...]), SHARES), expected, atol=0.02)


def test_the_usual_start_has_the_numbers_of_the_first_version():
    layer = Linear(5, 3, init_std=0.5, rngs=nnx.Rngs(4))
    expected = 0.5 * jax.random.normal(nnx.Rngs(4).params(), (5, 3))
    chex.assert_trees_all_equal((layer.kernel[...], layer.bias[...]), (expected, jnp.zeros(3)))
