"""Backbone and head in one module: the network of the student, and that of the teacher."""

from flax import nnx

from flsl_jax.models.head import Head
from flsl_jax.models.vit import ViT


class Flsl(nnx.Module):
    """A container for both parts; the training step decides what goes through which part."""

    def __init__(self, *, backbone: ViT, head: Head) -> None:
        self.backbone = backbone
        self.head = head
