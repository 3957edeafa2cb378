"""The projection head from modes to logits over K centroids (docs/method.md, Networks); it is DINO's head."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from flsl_jax.models.layers import Init, Linear, gelu, torch_uniform
from flsl_jax.objective.precision import matmul
from flsl_jax.objective.vectors import l2_normalise
from flsl_jax.typing import Array, Float


class LastLayer(nnx.Module):
    """Weight-normalised linear layer without bias: column k is `gain_k · v_k / ‖v_k‖`, a centroid on the sphere.

    The length of v_k changes no output, but the longer it is, the less a step of the optimizer turns the centroid.
    """

    def __init__(self, inputs: int, centroids: int, *, init: Init, learn_gain: bool, rngs: nnx.Rngs) -> None:
        key, shape = rngs.params(), (inputs, centroids)
        if init == "torch":
            self.kernel = nnx.Param(torch_uniform(key, shape, fan_in=inputs))
        else:
            self.kernel = nnx.Param(nnx.initializers.normal(0.02)(key, shape, jnp.float32))
        self.gain = nnx.Param(jnp.ones((centroids,), jnp.float32)) if learn_gain else None

    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b K"]:
        logits = matmul(x, l2_normalise(self.kernel[...], axis=0))
        return logits if self.gain is None else logits * self.gain[...]


class Head(nnx.Module):
    """Linear, GELU, linear, GELU, linear, l2-normalise, weight-normalised linear; applied to modes, not to tokens.

    Args:
        width: D of the modes.
        hidden: channels of the two hidden layers.
        bottleneck: channels before the last layer, which are l2-normalised.
        centroids: K.
        norm_last_layer: whether the last layer's gain stays 1; if False, it is learned.
        last_layer_init: how the last layer starts: "normal" with standard deviation 0.02, so that its columns have a length
            of about 0.02 · √bottleneck; or as in "torch", uniform in ±1/√bottleneck, with lengths of about 1/√3 = 0.577.
        dtype: dtype of the hidden layers; the normalisation and the logits are float32.
    """

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        bottleneck: int,
        centroids: int,
        norm_last_layer: bool = True,
        last_layer_init: Init = "normal",
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.dtype = jnp.dtype(dtype)
        self.fc1 = Linear(width, hidden, rngs=rngs)
        self.fc2 = Linear(hidden, hidden, rngs=rngs)
        self.fc3 = Linear(hidden, bottleneck, rngs=rngs)
        self.last_layer = LastLayer(
            bottleneck, centroids, init=last_layer_init, learn_gain=not norm_last_layer, rngs=rngs
        )

    def __call__(self, modes: Float[Array, "*b D"]) -> Float[Array, "*b K"]:
        """Logits, float32; they are cosines in [-1, 1] if the gain is 1."""
        x = gelu(self.fc1(modes.astype(self.dtype)))
        x = self.fc3(gelu(self.fc2(x)))
        return self.last_layer(l2_normalise(x.astype(jnp.float32)))
