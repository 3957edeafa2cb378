"""Frozen features for Python: the model that `flsl_jax.load` returns, and how images are made ready for it."""

from flsl_jax.features.backbone import Backbone, as_backbone
from flsl_jax.features.fitting import Fit
from flsl_jax.features.preprocessing import preprocess

__all__ = ["Backbone", "Fit", "as_backbone", "preprocess"]
