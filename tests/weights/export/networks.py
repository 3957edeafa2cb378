"""Small networks of every kind that a program can hold, with random parameters."""

import dataclasses

from flax import nnx

from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.canonical import backbone_tensors
from flsl_jax.weights.export.trained import Trained
from tests.weights.test_canonical import random_params

PLAIN = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(5, 6))
NETWORKS = {
    "plain": PLAIN,
    "dino": dataclasses.replace(PLAIN, pos_resize="bicubic_dino", num_prefix=1),
    "timm": dataclasses.replace(PLAIN, pos_resize="bicubic_antialias", num_prefix=5, layer_scale=True, norm_eps=1e-5),
    "sincos": dataclasses.replace(PLAIN, pos_embed="sincos"),
    "gated": dataclasses.replace(PLAIN, mlp="swiglu", mlp_hidden=24),
    "dinov3": dataclasses.replace(
        PLAIN, pos_embed="rope", rope_periods=(1.0, 7.0), num_prefix=5, layer_scale=True, mlp="swiglu", mlp_hidden=24
    ),
    "rotary alone": dataclasses.replace(PLAIN, pos_embed="rope", rope_periods=(1.0, 7.0)),
    "detector": dataclasses.replace(PLAIN, final_norm=False, channels=2),
}


def tensors_of(arch):
    """Canonical tensors of random values."""
    return backbone_tensors(random_params(ViT(arch, rngs=nnx.Rngs(0))), arch)


def trained_of(name, *, channels=3, **changes):
    """A run of such a network."""
    arch = dataclasses.replace(NETWORKS[name], channels=channels)
    changes = ({} if channels == 3 else {"mean": (0.5,) * channels, "std": (0.25,) * channels}) | changes
    return Trained(architecture=arch, backbones={"teacher": tensors_of(arch)}, heads={}, source="mine", **changes)
