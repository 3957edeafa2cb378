"""Vectors of length 1: the l2-normalisation of frozen features, on the host and on devices."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

_Vectors = TypeVar("_Vectors", np.ndarray, jax.Array)


def unit_vectors(vectors: _Vectors) -> _Vectors:
    """Each vector of the last axis divided by its length, or by 1e-12 where it is shorter, so that zeros stay zeros.

    NumPy arrays give NumPy arrays, arrays of JAX give arrays of JAX, both in the dtype of `vectors`. This is the form without
    a gradient at zero; `objective.vectors.l2_normalise` has one, and rounds differently.
    """
    if isinstance(vectors, np.ndarray):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
