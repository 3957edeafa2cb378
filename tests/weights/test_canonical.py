"""Parameter trees to named tensors and back: bit-exact, with timm's names and shapes."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from flsl_jax.models import Architecture, Head, ViT
from flsl_jax.weights.canonical import backbone_params, backbone_tensors, head_params, head_tensors

ARCHITECTURE = {"patch_size": 4, "width": 16, "depth": 3, "num_heads": 2, "grid": (3, 5)}


def random_params(module):
    """Parameters without two equal numbers, so that no swap goes unseen."""
    leaves, tree = jax.tree.flatten(nnx.to_pure_dict(nnx.split(module, nnx.Param)[1]))
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return jax.tree.unflatten(tree, [np.asarray(jax.random.normal(key, leaf.shape)) for key, leaf in zip(keys, leaves)])


@pytest.mark.parametrize(
    "changes",
    [{}, {"pos_embed": "sincos"}, {"num_prefix": 3, "layer_scale": True}, {"final_norm": False}],
    ids=["plain", "sincos", "dinov2", "no norm"],
)
def test_a_backbone_goes_round_bit_exactly(changes):
    architecture = Architecture(**ARCHITECTURE | changes)
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    tensors = backbone_tensors(params, architecture)
    chex.assert_trees_all_equal(backbone_params(tensors, architecture), params)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_a_head_goes_round_bit_exactly(norm_last_layer):
    head = Head(width=16, hidden=12, bottleneck=8, centroids=20, norm_last_layer=norm_last_layer, rngs=nnx.Rngs(0))
    params = random_params(head)
    tensors = head_tensors(params)
    assert tensors["last_layer.weight_v"].shape == (20, 8)
    assert tensors["last_layer.weight_g"].shape == (20, 1)
    assert tensors["mlp.4.weight"].shape == (8, 12)
    chex.assert_trees_all_equal(head_params(tensors, norm_last_layer=norm_last_layer), params)


def test_names_and_shapes_of_a_vit_s16_are_timms():
    architecture = Architecture(patch_size=16, width=384, depth=12, num_heads=6)
    state = nnx.eval_shape(lambda: nnx.split(ViT(architecture, rngs=nnx.Rngs(0)), nnx.Param)[1])
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), nnx.to_pure_dict(state))
    shapes = {name: tensor.shape for name, tensor in backbone_tensors(zeros, architecture).items()}
    assert len(shapes) == 149
    assert shapes["pos_embed"] == (1, 196, 384)
    assert shapes["patch_embed.proj.weight"] == (384, 3, 16, 16)
    assert shapes["blocks.11.attn.qkv.weight"] == (1152, 384)
    assert shapes["blocks.0.mlp.fc1.weight"] == (1536, 384)
    assert shapes["norm.weight"] == (384,)
