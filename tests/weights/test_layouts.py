"""Every layout: its names and shapes as published, nothing lost on the way there and back, and what it cannot hold."""

import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from flax import nnx

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.canonical import backbone_params, backbone_tensors
from flsl_jax.weights.layouts import LAYOUTS, REFUSED, find_layout
from flsl_jax.weights.renaming import from_layout, to_layout
from tests.weights.conversion import vit_small
from tests.weights.test_canonical import ARCHITECTURE, random_params

GOLDEN = Path(__file__).parent / "golden"


def random_tensors(architecture):
    return backbone_tensors(random_params(ViT(architecture, rngs=nnx.Rngs(0))), architecture)


@pytest.mark.parametrize("name", LAYOUTS)
def test_names_and_shapes_of_a_vit_s16_are_the_golden_ones(name):
    architecture = vit_small(name)
    state = nnx.eval_shape(lambda: nnx.split(ViT(architecture, rngs=nnx.Rngs(0)), nnx.Param)[1])
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), nnx.to_pure_dict(state))
    tensors = to_layout(backbone_tensors(zeros, architecture), LAYOUTS[name])
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == golden


@pytest.mark.parametrize("changes", [{}, {"grid": (4, 4)}, {"pos_embed": "sincos"}], ids=["oblong", "square", "sincos"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_there_and_back_is_bit_exact(name, changes):
    layout = LAYOUTS[name]
    if layout.rotary:
        changes = changes | {"pos_embed": "rope", "rope_periods": (1.0, 7.0)}
    architecture = Architecture(**ARCHITECTURE | changes)
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    written = to_layout(backbone_tensors(params, architecture), layout)
    back = from_layout(written, layout, num_patches=None if changes.get("grid") else 15)
    if not layout.final_norm:
        assert not any(name.startswith("norm.") for name in back)
        back |= {"norm.weight": params["norm"]["scale"], "norm.bias": params["norm"]["bias"]}
    chex.assert_trees_all_equal(backbone_params(back, architecture), params)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("timm", {"num_prefix": 3, "layer_scale": True}),
        ("dino", {"num_prefix": 1}),
        ("dinov2", {"num_prefix": 1, "layer_scale": True}),
        ("dinov2-registers", {"num_prefix": 5, "layer_scale": True}),
        ("timm", {"mlp": "swiglu", "mlp_hidden": 24}),
        ("dinov2", {"num_prefix": 1, "mlp": "swiglu", "mlp_hidden": 24}),
        (
            "dinov3",
            {"num_prefix": 3, "mlp": "swiglu", "mlp_hidden": 24, "pos_embed": "rope", "rope_periods": (2.0, 7.0)},
        ),
    ],
)
def test_prefix_tokens_and_layer_scale_go_round_where_they_have_a_place(name, changes):
    architecture, layout = Architecture(**ARCHITECTURE | changes), LAYOUTS[name]
    tensors = random_tensors(architecture)
    back = from_layout(to_layout(tensors, layout), layout, num_patches=15)
    chex.assert_trees_all_equal(back, tensors)


def test_a_row_of_zeros_stands_before_the_position_embedding_where_the_target_drops_the_first():
    tensors = random_tensors(Architecture(**ARCHITECTURE))
    for name, key in (("mmseg", "pos_embed"), ("transformers-vitdet", "embeddings.position_embeddings")):
        rows = to_layout(tensors, LAYOUTS[name])[key]
        assert rows.shape == (1, 16, 16)
        assert not rows[:, 0].any()
        np.testing.assert_array_equal(rows[:, 1:], tensors["pos_embed"])


def test_query_key_and_value_are_thirds_of_one_weight_in_this_order():
    tensors = random_tensors(Architecture(**ARCHITECTURE))
    written = to_layout(tensors, LAYOUTS["transformers"])
    parts = [written[f"layers.2.attention.{part}_proj.weight"] for part in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), tensors["blocks.2.attn.qkv.weight"])


def test_tensors_without_a_place_are_named_all_at_once():
    tensors = random_tensors(Architecture(**ARCHITECTURE | {"layer_scale": True, "depth": 1}))
    with pytest.raises(UserError, match=r"no place for blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma"):
        to_layout(tensors, LAYOUTS["detectron2"])


def test_foreign_and_missing_names_are_named_all_at_once():
    written = to_layout(random_tensors(Architecture(**ARCHITECTURE)), LAYOUTS["transformers"])
    del written["layers.1.attention.k_proj.bias"]
    with pytest.raises(
        UserError, match=r"IJepaModel.*blocks\.1\.attn\.qkv\.bias in 2 of 3 parts, pooler\.dense\.weight"
    ):
        from_layout(written | {"pooler.dense.weight": np.zeros(3)}, LAYOUTS["transformers"])


@pytest.mark.parametrize("name", REFUSED)
def test_formats_with_a_class_token_are_refused_and_name_another(name):
    with pytest.raises(UserError, match=r"always has a class token.*use --format=(timm|transformers)"):
        find_layout(name)


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UserError, match="unknown format 'detectron'; did you mean \"detectron2\""):
        find_layout("detectron")
    with pytest.raises(UserError, match="formats: detectron2, dino, dinov2, dinov2-registers, dinov3, flsl"):
        find_layout("xyz")
