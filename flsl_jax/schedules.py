"""Values that change with the training step."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from flsl_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """A curve from `start` to `end` over `steps` steps, which stays at `end` afterwards; optionally with a linear warm-up.

    During the first `warmup_steps` of the `steps`, the value goes linearly from `warmup_start` to `start`; the curve takes the
    remaining steps. "cosine" follows half a cosine (SGDR, Loshchilov and Hutter 2017, without restarts), "linear" a straight
    line, and "constant" stays at `start`.
    """

    start: float
    end: float
    steps: int
    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 0
    warmup_start: float = 0.0

    def __call__(self, step: int | Int[Array, ""]) -> Float[Array, ""]:
        """The value at a step, as a float32 scalar; the step may be traced."""
        step = jnp.asarray(step, jnp.float32)
        share = jnp.clip((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 0.0, 1.0)
        if self.kind == "constant":
            share = jnp.zeros_like(share)
        elif self.kind == "cosine":
            share = 0.5 * (1.0 - jnp.cos(jnp.pi * share))
        value = self.start + (self.end - self.start) * share
        if self.warmup_steps == 0:
            return value
        rising = self.warmup_start + (self.start - self.warmup_start) * step / self.warmup_steps
        return jnp.where(step < self.warmup_steps, rising, value)
