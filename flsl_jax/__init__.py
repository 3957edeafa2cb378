"""FLSL in JAX: feature-level self-supervised pretraining of vision transformers for dense prediction."""

from flsl_jax._version import __version__
from flsl_jax.api import get_config, load, pretrain, train
from flsl_jax.errors import UserError

__all__ = ["UserError", "__version__", "get_config", "load", "pretrain", "train"]
