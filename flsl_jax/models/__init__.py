"""Networks as Flax NNX modules that know nothing about data: a ViT without class token, and the projection head."""

from flsl_jax.models.architecture import Architecture
from flsl_jax.models.attention import cudnn_attends
from flsl_jax.models.head import Head
from flsl_jax.models.network import Flsl
from flsl_jax.models.placement import Placement
from flsl_jax.models.vit import ViT, pad_to_patch

__all__ = ["Architecture", "Flsl", "Head", "Placement", "ViT", "cudnn_attends", "pad_to_patch"]
