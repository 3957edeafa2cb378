"""SwiGLU MLPs and rotary positions of DINOv2's giant and DINOv3: tokens as a reference in NumPy has them, in every layout."""

import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.canonical import is_gated
from flsl_jax.weights.load import build_backbone, load_network
from flsl_jax.weights.reading.file_metadata import FileMetadata
from flsl_jax.weights.reading.importing import import_weights
from flsl_jax.weights.reading.shapes import architecture_of
from flsl_jax.weights.reading.sources import SOURCES
from tests.frameworks import random_images
from tests.weights.gated_rotary import DEPTH, HEADS, HIDDEN, PERIODS, WIDTH, dinov2_giant, dinov3, reference_tokens
from tests.weights.gated_rotary import timm_dinov3 as under_timm_names
from tests.weights.gated_rotary import transformers_dinov3 as under_transformers_names

SIZES = [(32, 32), (40, 72), (56, 24)]


def save(path, state):
    save_file(state, path)
    return path


def assert_reference(imported, state, *, sizes=SIZES, eps=1e-5):
    model = build_backbone(imported)
    for size in sizes:
        images = random_images(*size)
        expected = reference_tokens(state, images, eps=eps)
        found = np.asarray(model(jnp.asarray(images))).reshape(expected.shape)
        np.testing.assert_allclose(found, expected, atol=3e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_tokens_of_dinov3_are_those_of_the_reference_at_any_size(tmp_path, gated):
    state = dinov3(gated=gated)
    imported = import_weights(save(tmp_path / "x.safetensors", state))
    arch = imported.architecture
    assert imported.source == "DINOv3"
    assert (arch.pos_embed, arch.num_heads, arch.num_prefix, arch.norm_eps) == ("rope", HEADS, 5, 1e-5)
    assert (arch.mlp, arch.hidden) == (("swiglu", HIDDEN) if gated else ("gelu", 4 * WIDTH))
    assert arch.rope_periods == tuple(map(float, PERIODS))
    assert arch.grid == (28, 28)  # 224 px, as its hub says
    assert_reference(imported, state)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("inner", ["", "model."], ids=["saved", "of the module"])
def test_transformers_names_the_same_network_otherwise(tmp_path, gated, inner):
    state = dinov3(gated=gated)
    plain = import_weights(save(tmp_path / "plain.safetensors", state))
    renamed = {
        name.replace("layer.", f"{inner}layer.", 1): tensor for name, tensor in under_transformers_names(state).items()
    }
    save(tmp_path / "model.safetensors", renamed)
    bare = import_weights(tmp_path / "model.safetensors", num_heads=HEADS)
    chex.assert_trees_all_close(bare.backbone, plain.backbone, rtol=1e-6)
    config = {"model_type": "dinov3_vit", "num_attention_heads": HEADS, "patch_size": 8, "image_size": 64}
    config |= {"layer_norm_eps": 1e-5, "rope_theta": 50.0, "hidden_act": "silu" if gated else "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = import_weights(tmp_path)
    assert told.architecture.grid == (8, 8)
    np.testing.assert_allclose(told.architecture.rope_periods, 50.0 ** (np.arange(4) / 4), rtol=1e-6)
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu" if gated else "relu"}))
    with pytest.raises(UserError, match="uses the activation"):
        import_weights(tmp_path)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("told", [True, False])
def test_timm_names_the_same_network_otherwise_and_is_known_by_what_it_lacks(tmp_path, gated, told):
    state = dinov3(gated=gated)
    plain = import_weights(save(tmp_path / "plain.safetensors", state))
    save(tmp_path / "model.safetensors", under_timm_names(state))
    if told:
        (tmp_path / "config.json").write_text(
            json.dumps({"architecture": "vit_small_patch16_dinov3", "pretrained_cfg": {}})
        )
    found = import_weights(tmp_path / "model.safetensors", num_heads=HEADS)
    assert found.source == "timm's DINOv3"
    assert found.architecture == plain.architecture
    chex.assert_trees_all_close(found.backbone, plain.backbone, rtol=1e-6)


def test_heads_of_dinov3_have_64_channels_where_nothing_says_it_but_in_the_largest(tmp_path):
    for width, heads in ((1280, 20), (4096, 32)):
        tensors = {"patch_embed.proj.weight": np.zeros((width, 3, 1, 1), np.float32)}
        source = next(source for source in SOURCES if source.name == "timm-dinov3")
        arch, _ = architecture_of(tensors, source, FileMetadata(), assumed_heads=None, path=tmp_path)
        assert arch.num_heads == heads


def test_a_chunked_giant_with_swiglu_is_that_of_the_reference(tmp_path):
    state = dinov2_giant()
    imported = import_weights(save(tmp_path / "x.safetensors", state), num_heads=HEADS)
    assert (imported.architecture.mlp, imported.architecture.hidden) == ("swiglu", HIDDEN)
    assert_reference(imported, state, sizes=[(32, 32)], eps=1e-6)
    chunked = {name.replace("blocks.", "blocks.0.", 1): tensor for name, tensor in state.items()}
    found = import_weights(save(tmp_path / "chunked.safetensors", chunked), num_heads=HEADS)
    chex.assert_trees_all_equal(found.backbone, imported.backbone)


@pytest.mark.parametrize(
    "names",
    [("fc1", "fc2"), ("weights_in", "weights_out"), ("gate_proj", "up_proj", "down_proj"), ("fc1_g", "fc1_x", "fc2")],
    ids=["timm packed", "transformers 4", "transformers 5", "timm apart"],
)
def test_every_code_names_a_gate_in_its_own_way(tmp_path, names):
    state = dinov2_giant()
    expected = import_weights(save(tmp_path / "a.safetensors", state), num_heads=HEADS).backbone
    assert is_gated(expected)
    renamed = {}
    for name, tensor in state.items():
        stem, _, leaf = name.rpartition(".")
        if name.split(".")[-2:-1] == ["w12"]:
            parts = [tensor] if len(names) == 2 else np.split(tensor, 2)
            renamed |= {f"{stem.removesuffix('w12')}{new}.{leaf}": part for new, part in zip(names, parts)}
        else:
            renamed[name.replace("mlp.w3", f"mlp.{names[-1]}")] = tensor
    found = import_weights(save(tmp_path / "b.safetensors", renamed), num_heads=HEADS)
    chex.assert_trees_all_equal(found.backbone, expected)


def without(ending):
    return lambda state: {name: tensor for name, tensor in state.items() if not name.endswith(ending)}


def changed(ending, function):
    return lambda state: {
        name: np.array(function(tensor)) if name.endswith(ending) else tensor for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("0.mlp.w1.weight"), "unknown blocks.0.mlp.w2.weight"),
        (lambda state: state | {"rope_embed.periods": PERIODS[:3]}, r"rotary periods of shape \(3,\)"),
        (lambda state: state | {"rope_embed.periods": -PERIODS}, r"expected 4 numbers above 0"),
        (
            lambda state: state | {"blocks.0.attn.qkv.bias_mask": np.full(3 * WIDTH, np.nan, np.float32)},
            "NaN or infinite",
        ),
        (without("1.attn.qkv.bias"), "unknown blocks.1.attn.qkv.bias_mask"),
        (changed("0.attn.qkv.bias_mask", lambda mask: mask[:5]), "unknown blocks.0.attn.qkv.bias_mask"),
        (changed("0.mlp.w1.weight", lambda gate: gate[:-2]), "unknown blocks.0.mlp.w1.weight; unknown blocks.0.mlp.w2"),
        (changed("0.mlp.w1.weight", lambda gate: gate[:, :-2]), "unknown blocks.0.mlp.w1.weight"),
        (changed("0.mlp.w1.weight", lambda gate: gate[0, 0]), "unknown blocks.0.mlp.w1.weight"),
        (
            lambda state: state | {"blocks.0.mlp.fc1.weight": np.ones((128, 32), np.float32)},
            "unknown blocks.0.mlp.w1.we",
        ),
        (lambda state: state | {"blocks.0.mlp.norm.weight": np.ones(HIDDEN, np.float32)}, "norms inside its branches"),
    ],
)
def test_incomplete_gates_and_wrong_periods_are_one_line(tmp_path, change, message):
    path = save(tmp_path / "x.safetensors", change(dinov3(gated=True)))
    with pytest.raises(UserError, match=message) as caught:
        load_network(path, num_heads=HEADS)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("rename", "change", "message"),
    [
        (under_timm_names, without("1.attn.v_bias"), "unknown blocks.1.attn.q_bias"),
        (under_timm_names, changed("1.attn.v_bias", lambda bias: bias[:3]), "unknown blocks.1.attn.q_bias"),
        (
            under_transformers_names,
            changed("1.attention.k_proj.weight", lambda key: key[:, :-2]),
            r"blocks.1.attn.qkv.weight in parts of shapes \(32, 32\), \(32, 30\), \(32, 32\)",
        ),
    ],
)
def test_queries_keys_and_values_that_do_not_go_together_are_one_line(tmp_path, rename, change, message):
    path = save(tmp_path / "x.safetensors", change(rename(dinov3(gated=False))))
    with pytest.raises(UserError, match=message) as caught:
        load_network(path, num_heads=HEADS)
    assert len(str(caught.value).splitlines()) == 1


def test_attention_and_layers_are_those_of_turned_queries(tmp_path):
    state = dinov3(gated=True)
    model = load_network(save(tmp_path / "x.safetensors", state)).model
    images = random_images(40, 72)
    assert model.layers(images, range(DEPTH)).shape == (DEPTH, 2, 5, 9, WIDTH)
    last = model.layers(images, [-1], norm=True)[0]
    np.testing.assert_allclose(last, model.tokens(images), atol=1e-5)
    attention = np.asarray(model.attention(images, block=0))
    unturned = dict(state) | {"rope_embed.periods": np.full(4, 1e9, np.float32)}
    other = np.asarray(load_network(save(tmp_path / "y.safetensors", unturned)).model.attention(images, block=0))
    # Between prefix tokens nothing turns, up to the softmax's total over all tokens.
    ratio = attention[..., :5, :5] / other[..., :5, :5]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[..., :1], ratio.shape), rtol=1e-4)
    assert np.abs(attention - other).max() > 0.01
