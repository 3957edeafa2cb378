"""Linear and LayerNorm with float32 parameters that are cast where they are used, and the exact GELU."""

import jax
import jax.numpy as jnp
from flax import nnx

from flsl_jax.typing import Array, Float


class Linear(nnx.Module):
    """`x @ kernel + bias`, in the dtype of x; the kernel starts normal with `init_std`, the bias at zero.

    `stack` > 0 makes parameters for so many layers, with a leading axis.
    """

    def __init__(self, inputs: int, outputs: int, *, init_std: float = 0.02, stack: int = 0, rngs: nnx.Rngs) -> None:
        lead = (stack,) if stack else ()
        self.kernel = nnx.Param(init_std * jax.random.normal(rngs.params(), (*lead, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((*lead, outputs), jnp.float32))

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        return linear(x, kernel=self.kernel[...], bias=self.bias[...])


class LayerNorm(nnx.Module):
    """LayerNorm with float32 statistics, result in the dtype of x."""

    def __init__(self, width: int, *, eps: float = 1e-6, stack: int = 0) -> None:
        lead = (stack,) if stack else ()
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*lead, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((*lead, width), jnp.float32))

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        return layer_norm(x, scale=self.scale[...], bias=self.bias[...], eps=self.eps)


def linear(x: Float[Array, "*b i"], *, kernel: Float[Array, "i o"], bias: Float[Array, " o"]) -> Float[Array, "*b o"]:
    """`x @ kernel + bias` in the dtype of x; as one product of two matrices, whose gradient XLA on a CPU has 2.5× faster."""
    rows = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return (rows + bias.astype(x.dtype)).reshape(*x.shape[:-1], -1)


def layer_norm(
    x: Float[Array, "*b D"], *, scale: Float[Array, " D"], bias: Float[Array, " D"], eps: float = 1e-6
) -> Float[Array, "*b D"]:
    """LayerNorm over the last axis, statistics in float32; the result is not fused into what reads it.

    XLA on a CPU would otherwise compute the normalisation anew for every tile of the matrix product that follows.
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normalised = centred * jax.lax.rsqrt(variance + eps) * scale + bias
    return jax.lax.optimization_barrier(normalised.astype(x.dtype))


@jax.custom_jvp
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU, `x Φ(x)` with the normal distribution's Φ by erf, as torch has it.

    `jax.nn.gelu` writes it with erfc, which XLA on a CPU takes three times as long for. The derivative is written out so
    that the backward pass keeps one array of it and not two.
    """
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * jnp.square(x)) * (2 * jnp.pi) ** -0.5
    return x * cdf, dx * (cdf + x * density)


def _normal_cdf(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))
