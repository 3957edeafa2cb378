"""Backbone and head together: what student and teacher each are."""

from flax import nnx

from flsl_jax.models.head import Head
from flsl_jax.models.vit import ViT


class Flsl(nnx.Module):
    """A container; the step decides what goes through which part."""

    def __init__(self, *, backbone: ViT, head: Head) -> None:
        self.backbone = backbone
        self.head = head
