"""Networks: a ViT without class token and the projection head, as Flax NNX modules that know no data."""

from flsl_jax.models.architecture import Architecture
from flsl_jax.models.head import Head
from flsl_jax.models.network import Flsl
from flsl_jax.models.vit import ViT, pad_to_patch

__all__ = ["Architecture", "Flsl", "Head", "ViT", "pad_to_patch"]
