"""Linear and LayerNorm with float32 parameters, which are cast to the dtype of their input, and the exact GELU."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.models.placement import Placement
from flsl_jax.objective.precision import at_least_float32, matmul
from flsl_jax.typing import Array, Float, PRNGKeyArray

Init = Literal["normal", "torch"]


class Linear(nnx.Module):
    """`x @ kernel + bias` in the dtype of x.

    With `init` "normal", the kernel starts from a normal distribution with standard deviation `init_std`, and the bias at
    zero. With "torch", both start uniform in ±1/√inputs, as torch's `Linear` and `Conv2d` do. `stack` > 0 makes the
    parameters of so many layers, stacked along a leading axis.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        init: Init = "normal",
        init_std: float = 0.02,
        stack: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        lead, key = (stack,) if stack else (), rngs.params()
        kernel, bias = (*lead, inputs, outputs), (*lead, outputs)
        if init == "torch":
            kernel_key, bias_key = jax.random.split(key)
            self.kernel = nnx.Param(torch_uniform(kernel_key, kernel, fan_in=inputs))
            self.bias = nnx.Param(torch_uniform(bias_key, bias, fan_in=inputs))
        else:
            self.kernel = nnx.Param(init_std * jax.random.normal(key, kernel, jnp.float32))
            self.bias = nnx.Param(jnp.zeros(bias, jnp.float32))

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return linear(x, kernel=self.kernel[...], bias=self.bias[...])


class LayerNorm(nnx.Module):
    """LayerNorm with float32 statistics; the result has the dtype of x. `stack` is as in `Linear`."""

    def __init__(self, width: int, *, eps: float = 1e-6, stack: int = 0) -> None:
        lead = (stack,) if stack else ()
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*lead, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((*lead, width), jnp.float32))

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        return layer_norm(x, scale=self.scale[...], bias=self.bias[...], eps=self.eps)


def torch_uniform(key: PRNGKeyArray, shape: tuple[int, ...], *, fan_in: int) -> Float[Array, "..."]:
    """Uniform numbers in ±1/√fan_in, float32: where torch's `Linear` and `Conv2d` start, both weights and biases."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, jnp.float32, minval=-bound, maxval=bound)


def linear(
    x: Float[Array, "*b i"],
    *,
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"],
    placement: Placement | None = None,
) -> Float[Array, "*b o"]:
    """`x @ kernel + bias` in the dtype of x. The gradients of kernel and bias are summed in their own dtype, float32.

    It is computed as one product of two matrices, because XLA on a CPU then computes the gradient 2.5 times as fast. With a
    `placement`, the kernel is spread over devices: it is gathered in the dtype of x, and again in the backward pass.
    """
    return _linear(x.reshape(-1, x.shape[-1]), kernel, bias, placement).reshape(*x.shape[:-1], -1)


def _linear_value(rows: Array, kernel: Array, bias: Array, placement: Placement | None) -> Array:
    return rows @ _gathered(kernel, rows.dtype, placement) + bias.astype(rows.dtype)


def _linear_forward(
    rows: Array, kernel: Array, bias: Array, placement: Placement | None
) -> tuple[Array, tuple[Array, Array, Array]]:
    # Not by `_linear`, in which a policy of `jax.checkpoint` would not see the product.
    return _linear_value(rows, kernel, bias, placement), (rows, kernel, bias)


def _linear_backward(
    placement: Placement | None, kept: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    rows, kernel, bias = kept
    of_kernel = _kernel_gradient(rows, cotangent, kernel)
    return (
        cotangent @ _gathered(kernel, rows.dtype, placement).T,
        of_kernel if placement is None else placement.part(of_kernel),
        _summed(cotangent, bias),
    )


def _gathered(kernel: Array, dtype: jnp.dtype, placement: Placement | None) -> Array:
    kernel = kernel.astype(dtype)
    return kernel if placement is None else placement.whole(kernel)


def _kernel_gradient(rows: Float[Array, "R i"], cotangent: Float[Array, "R o"], kernel: Float[Array, "i o"]) -> Array:
    """The product has its longer axis last: a fifth faster on a CPU."""
    inputs, outputs = kernel.shape
    if inputs <= outputs:
        return jnp.matmul(rows.T, cotangent, preferred_element_type=kernel.dtype)
    # Without the barrier, XLA would undo this exchange of the two factors.
    return jax.lax.optimization_barrier(jnp.matmul(cotangent.T, rows, preferred_element_type=kernel.dtype)).T


def _summed(cotangent: Array, like: Array) -> Array:
    """The gradient of what was added to, or copied along, leading axes, summed in its own dtype."""
    return jnp.sum(cotangent.astype(like.dtype), axis=tuple(range(cotangent.ndim - like.ndim)))


# In bfloat16, the kernel's gradient would otherwise be rounded before devices add theirs up.
_linear = jax.custom_vjp(_linear_value, nondiff_argnums=(3,))
_linear.defvjp(_linear_forward, _linear_backward)


@jax.custom_vjp
def plus(x: Float[Array, "*b D"], addend: Float[Array, "*c D"]) -> Float[Array, "*b D"]:
    """`x + addend` in the dtype of x, for every entry of its leading axes; the addend's gradient is summed in its own dtype."""
    return x + addend.astype(x.dtype)


def _plus_forward(x: Array, addend: Array) -> tuple[Array, Array]:
    return plus(x, addend), addend


def _plus_backward(addend: Array, cotangent: Array) -> tuple[Array, Array]:
    return cotangent, _summed(cotangent, addend)


plus.defvjp(_plus_forward, _plus_backward)


@jax.custom_vjp
def times(x: Float[Array, "*b D"], factor: Float[Array, " D"]) -> Float[Array, "*b D"]:
    """`x * factor` in the dtype of x; the factor's gradient is summed in its own dtype."""
    return x * factor.astype(x.dtype)


def _times_forward(x: Array, factor: Array) -> tuple[Array, tuple[Array, Array]]:
    return times(x, factor), (x, factor)


def _times_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, factor = kept
    along = cotangent.astype(factor.dtype) * x.astype(factor.dtype)
    return cotangent * factor.astype(x.dtype), _summed(along, factor)


times.defvjp(_times_forward, _times_backward)


def layer_norm(
    x: Float[Array, "*b D"], *, scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float = 1e-6
) -> Float[Array, "*b D"]:
    """LayerNorm over the last axis with statistics in float32; the result has the dtype of x.

    A barrier keeps XLA from fusing the result into the operation that reads it: on a CPU, it would compute the normalisation
    again for every tile of the matrix product that follows. The derivative is written out by hand. The backward pass
    therefore keeps only x and two numbers per row, and adds one array to the gradient of the residual stream; otherwise XLA
    on a CPU would add up the contributions of all later blocks again in every block.
    """
    return _layer_norm(x, scale, bias, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    return _layer_norm_forward(x, scale, bias, eps)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array, eps: float) -> tuple[Array, tuple[Array, ...]]:
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    # As in flax: E[x²] − E[x]² reads x once, whereas the mean of squared differences would first write the differences.
    variance = jnp.maximum(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) - jnp.square(mean), 0.0)
    factor = jax.lax.rsqrt(variance + eps)
    normalised = (wide - mean) * factor * scale + bias
    return jax.lax.optimization_barrier(normalised.astype(x.dtype)), (x, mean, factor, scale)


def _layer_norm_backward(eps: float, kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array, Array]:
    del eps
    x, mean, factor, scale = kept
    standard = (x.astype(jnp.float32) - mean) * factor
    cotangent = cotangent.astype(jnp.float32)
    along = cotangent * standard
    offset, slope = (_scaled_mean(values, scale) for values in (cotangent, along))
    dx = factor * (cotangent * scale - offset - standard * slope)
    rows = tuple(range(x.ndim - 1))
    return dx.astype(x.dtype), jnp.sum(along, axis=rows), jnp.sum(cotangent, axis=rows)


def _scaled_mean(values: Float[Array, "*b D"], scale: Float[Array, " D"]) -> Float[Array, "*b 1"]:
    """Mean of `values * scale` over the last axis, as a product with a vector; XLA on a CPU would write out a sum's terms."""
    return matmul(values, scale)[..., None] / scale.shape[0]


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, `x Φ(x)`, with the normal distribution's Φ computed by erf, as in torch; in float32, rounded once at the end.

    `jax.nn.gelu` uses erfc, which takes XLA on a CPU three times as long. The derivative is written out by hand, so that
    the backward pass keeps x only.
    """
    wide = at_least_float32(x)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, cotangent: Array) -> tuple[Array]:
    # Without the barrier, XLA would also keep Φ(x) of the forward pass: more memory, and slower than computing it again.
    return (_gelu_gradient(jax.lax.optimization_barrier(x), cotangent),)


def _gelu_gradient(x: Array, cotangent: Array) -> Array:
    wide = at_least_float32(x)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * jnp.pi) ** -0.5
    slope = _normal_cdf(wide) + wide * density
    return (at_least_float32(cotangent) * slope).astype(x.dtype)


gelu.defvjp(_gelu_forward, _gelu_backward)


def linear_of_gelu(
    x: Float[Array, "*b i"],
    *,
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"],
    placement: Placement | None = None,
) -> Float[Array, "*b o"]:
    """`linear(gelu(x))`. In half precision, which is for accelerators, the backward pass keeps x and computes `gelu(x)` again.

    In float32 it keeps both: on a CPU time counts more than memory.
    """
    if jnp.finfo(x.dtype).bits >= 32:
        return linear(gelu(x), kernel=kernel, bias=bias, placement=placement)
    return _linear_of_gelu(x.reshape(-1, x.shape[-1]), kernel, bias, placement).reshape(*x.shape[:-1], -1)


def _linear_of_gelu_value(rows: Array, kernel: Array, bias: Array, placement: Placement | None) -> Array:
    return _linear_value(gelu(rows), kernel, bias, placement)


def _linear_of_gelu_forward(
    rows: Array, kernel: Array, bias: Array, placement: Placement | None
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _linear_of_gelu_value(rows, kernel, bias, placement), (rows, kernel, bias)


def _linear_of_gelu_backward(
    placement: Placement | None, kept: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    rows, kernel, bias = kept
    # Without the barrier, XLA would keep the forward pass's `gelu(rows)` after all, where blocks are unrolled. It is one for
    # both readers, which XLA can then compute in one pass.
    rows = jax.lax.optimization_barrier(rows)
    towards, of_kernel, of_bias = _linear_backward(placement, (gelu(rows), kernel, bias), cotangent)
    return _gelu_gradient(rows, towards), of_kernel, of_bias


_linear_of_gelu = jax.custom_vjp(_linear_of_gelu_value, nondiff_argnums=(3,))
_linear_of_gelu.defvjp(_linear_of_gelu_forward, _linear_of_gelu_backward)


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
