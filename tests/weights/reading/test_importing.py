"""Weights of other code: tokens equal to those of the real class where it can be had, else of a twin; bad ones refused."""

import json

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.load import build_backbone
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.reading.importing import import_weights
from tests.frameworks import import_framework, random_images, randomise, torch_tokens
from tests.weights import published
from tests.weights.published import random_state, twin_tokens

# The training size, and an oblong one of odd grids.
IMAGE_SIZES = [(32, 32), (40, 72)]
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
TINY_TIMM = {"embed_dim": 64, "depth": 2, "num_heads": 4, "img_size": 32, "patch_size": 8}


def assert_same_tokens(imported, run):
    """Ours against torch's `run`, which maps [B, 3, H, W] to patch tokens [B, N, D]; relative to the tokens' size."""
    encode = jax.jit(build_backbone(imported).__call__)
    for size in IMAGE_SIZES:
        images = random_images(*size)
        expected = torch_tokens(run, images)
        ours = np.asarray(encode(jnp.asarray(images))).reshape(expected.shape)
        assert np.abs(ours - expected).max() < 1e-4 * max(1.0, np.abs(expected).max() / 4)


TRANSFORMERS = {
    "ViTModel": ("ViTConfig", {"intermediate_size": 256}, 1),
    "ViTForImageClassification": ("ViTConfig", {"intermediate_size": 256, "layer_norm_eps": 1e-3}, 1),
    "DeiTModel": ("DeiTConfig", {"intermediate_size": 256}, 2),
    "Dinov2Model": ("Dinov2Config", {"mlp_ratio": 4}, 1),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {"mlp_ratio": 4}, 5),
    "IJepaModel": ("IJepaConfig", {"intermediate_size": 256}, 0),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tokens_are_those_of_the_real_class_of_transformers(tmp_path, name):
    transformers = import_framework("transformers")
    config, changes, prefix = TRANSFORMERS[name]
    config = getattr(transformers, config)(**TINY, **changes)
    model = randomise(getattr(transformers, name)(config))
    model.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    # Files keep the names of version 4, modules have those of 5: both are read, and are the same.
    names = "".join(read_weights(tmp_path).tensors)
    assert "attention.attention.query" in names
    save_file({key: value.numpy() for key, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    assert "q_proj" in "".join(read_weights(tmp_path).tensors)
    chex.assert_trees_all_equal(import_weights(tmp_path).backbone, imported.backbone)
    assert imported.architecture.num_heads == 4
    assert imported.heads_known
    assert imported.architecture.norm_eps == config.layer_norm_eps
    assert imported.architecture.num_prefix == prefix
    body = getattr(model, model.base_model_prefix, model)
    options = {} if "Dinov2" in name else {"interpolate_pos_encoding": True}
    assert_same_tokens(imported, lambda x: body(x, **options).last_hidden_state[:, prefix:])


def test_tokens_are_those_of_the_real_vitdet_backbone_of_transformers(tmp_path):
    transformers = import_framework("transformers")
    model = randomise(transformers.VitDetBackbone(transformers.VitDetConfig(**TINY, pretrain_image_size=32)))
    model.save_pretrained(tmp_path)
    imported = import_weights(tmp_path)
    assert not imported.architecture.final_norm
    assert "first row of the position embedding" in imported.unused
    assert_same_tokens(imported, lambda x: model(x).feature_maps[-1].flatten(2).transpose(1, 2))


TIMM = {
    "vit": {},
    "no class token": {"class_token": False, "global_pool": ""},
    "registers": {"reg_tokens": 3},
    "registers and class token without places": {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1},
    "registers alone": {"class_token": False, "reg_tokens": 4, "no_embed_class": True, "global_pool": "avg"},
    "mean pooling": {"global_pool": "avg", "class_token": False},
}


@pytest.mark.parametrize("name", TIMM)
def test_tokens_are_those_of_the_real_vit_of_timm(tmp_path, name):
    timm = import_framework("timm")
    changes = {"num_classes": 3} | TIMM[name]
    model = timm.models.vision_transformer.VisionTransformer(**TINY_TIMM, dynamic_img_size=True, **changes)
    randomise(model)
    save_file({key: value.numpy() for key, value in model.state_dict().items()}, tmp_path / "vit.safetensors")
    imported = import_weights(tmp_path / "vit.safetensors", num_heads=4)
    assert imported.architecture.num_prefix == model.num_prefix_tokens
    assert {"head.weight", "head.bias"} <= imported.unused.keys()
    assert_same_tokens(imported, lambda x: model.forward_features(x)[:, model.num_prefix_tokens :])


def test_tokens_are_those_of_the_real_distilled_deit_of_timm(tmp_path):
    timm = import_framework("timm")
    model = timm.models.deit.VisionTransformerDistilled(**TINY_TIMM, dynamic_img_size=True)
    randomise(model)
    save_file({key: value.numpy() for key, value in model.state_dict().items()}, tmp_path / "deit.safetensors")
    imported = import_weights(tmp_path / "deit.safetensors", num_heads=4)
    assert_same_tokens(imported, lambda x: model.forward_features(x)[:, 2:])


def test_tokens_are_those_of_the_real_vit_of_torchvision_at_its_size(tmp_path):
    import_framework("torchvision")
    torchvision = pytest.importorskip("torchvision")
    model = randomise(
        torchvision.models.VisionTransformer(
            image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=256
        )
    )
    import torch

    torch.save(model.state_dict(), tmp_path / "vit.pth")
    imported = import_weights(tmp_path / "vit.pth", num_heads=4)
    images = random_images(32, 32)

    def run(x):
        patches = model._process_input(x)
        tokens = torch.cat([model.class_token.expand(len(x), -1, -1), patches], dim=1)
        return model.encoder(tokens)[:, 1:]

    expected = torch_tokens(run, images)
    ours = build_backbone(imported)(jnp.asarray(images))
    np.testing.assert_allclose(np.asarray(ours).reshape(expected.shape), expected, atol=1e-4)


def save_torch(state, path, *, wrapped=None):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    torch.save(tensors if wrapped is None else {wrapped: tensors, "epoch": 3}, path)
    return path


def unprefixed(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# By name: golden list, prefix of its names, wrapper, what the twin is told, source found, prefix tokens.
PUBLISHED = {
    "dino": (published.DINO, "backbone.", "teacher", {"resize": "dino"}, "DINO", 1),
    "dino student": (published.DINO, "module.backbone.", "student", {"resize": "dino"}, "DINO", 1),
    "dino backbone": (published.MAE_ENCODER, "", None, {"resize": "dino"}, "DINO", 1),
    "flsl": (published.FLSL, "backbone.", "teacher", {"resize": "dino", "tokens": (), "rows": 0}, "FLSL", 0),
    "ibot": (published.IBOT, "backbone.", "teacher", {"resize": "dino"}, "iBOT", 1),
    "dinov2": (published.DINOV2, "", None, {"resize": "dino"}, "DINOv2", 1),
    "dinov2 registers": (
        published.DINOV2_REGISTERS,
        "",
        None,
        {"resize": "antialias", "tokens": ("cls_token", "register_tokens"), "rows": 1},
        "DINOv2 with registers",
        5,
    ),
    "mae": (published.MAE, "", "model", {}, "MAE", 1),
    "mae encoder": (published.MAE_ENCODER, "", "model", {}, "MAE", 1),
    "deit distilled": (published.DEIT, "", "model", {"tokens": ("cls_token", "dist_token"), "rows": 2}, "DeiT", 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_tokens_are_those_of_a_twin_for_the_published_layout(tmp_path, name):
    golden, prefix, wrapper, options, source, num_prefix = PUBLISHED[name]
    state = random_state(golden, prefix=prefix)
    network = "student" if wrapper == "student" else "teacher"
    imported = import_weights(save_torch(state, tmp_path / "x.pth", wrapped=wrapper), num_heads=4, network=network)
    assert source in imported.source
    assert imported.architecture.num_prefix == num_prefix
    assert_same_tokens(imported, lambda x: twin_tokens(unprefixed(state, prefix), x, **options))


def renamed(state, renames):
    for old, new in renames:
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


@pytest.mark.parametrize("name", ["torchvision", "mmpretrain"])
def test_tokens_are_those_of_a_twin_for_renamed_layouts(tmp_path, name):
    if name == "torchvision":
        state = random_state(published.TORCHVISION)
        renames = [
            ("class_token", "cls_token"), ("encoder.pos_embedding", "pos_embed"), ("conv_proj", "patch_embed.proj"),
            ("encoder.layers.encoder_layer_", "blocks."), ("ln_1", "norm1"), ("ln_2", "norm2"), ("encoder.ln", "norm"),
            ("self_attention.in_proj_", "attn.qkv."), ("self_attention.out_proj", "attn.proj"),
            ("linear_1", "fc1"), ("linear_2", "fc2"),
        ]  # fmt: skip
    else:
        state = random_state(published.MMPRETRAIN, prefix="backbone.")
        renames = [
            ("backbone.", ""), ("projection", "proj"), ("layers.0.0", "fc1"), ("ffn.layers.1", "ffn.fc2"), ("ffn.", "mlp."),
            ("layers.", "blocks."), (".ln1", ".norm1"), (".ln2", ".norm2"), ("ln1", "norm"),
        ]  # fmt: skip
        renames.insert(2, ("ffn.layers.0.0", "ffn.fc1"))
    imported = import_weights(save_torch(state, tmp_path / "x.pth", wrapped="state_dict"), num_heads=4)
    assert name in imported.source
    assert_same_tokens(imported, lambda x: twin_tokens(renamed(state, renames), x))


def test_a_head_as_dinos_is_kept_and_one_of_another_form_is_named(tmp_path):
    state = random_state(published.DINO, prefix="backbone.")
    imported = import_weights(save_torch(state, tmp_path / "x.pth", wrapped="teacher"), num_heads=4)
    chex.assert_trees_all_equal(imported.head, unprefixed(state, "head."))
    newer = renamed(state, [(f"weight_{'gv'[n]}", f"parametrizations.weight.original{n}") for n in (0, 1)])
    newer = import_weights(save_torch(newer, tmp_path / "x.pth", wrapped="teacher"), num_heads=4)
    chex.assert_trees_all_equal(newer.head, imported.head)
    state = random_state(published.IBOT, prefix="backbone.")
    imported = import_weights(save_torch(state, tmp_path / "x.pth", wrapped="teacher"), num_heads=4)
    assert imported.head is None
    assert imported.unused["teacher.head.last_layer2.weight_v"] == "pooling and classification"


def test_everything_left_is_named_and_every_assumption_said(tmp_path):
    teacher, student = (random_state(published.FLSL, prefix="backbone.", seed=seed) for seed in (1, 2))
    both = {f"teacher.{name}": value for name, value in teacher.items()}
    both |= {f"student.module.{name}": value for name, value in student.items()}
    path = save_torch(both, tmp_path / "x.pth")
    imported = import_weights(path, num_heads=4)
    np.testing.assert_array_equal(imported.backbone["norm.bias"], teacher["backbone.norm.bias"])
    accounted = set(imported.unused) | {f"teacher.backbone.{name}" for name in imported.backbone}
    accounted |= {f"teacher.head.{name}" for name in imported.head}
    assert {name.replace("teacher.backbone.cls_token", "cls_token") for name in both} == accounted
    other = import_weights(path, network="student")
    np.testing.assert_array_equal(other.backbone["norm.bias"], student["backbone.norm.bias"])
    report = other.report()
    assert "assumed 1 attention heads" in report
    assert "not used, another network: teacher.* (" in report
    assert "not used, kept by the FLSL release, which does not use it: cls_token" in report


def test_a_token_without_a_place_is_used_where_timm_would_use_it(tmp_path):
    state = unprefixed(random_state(published.FLSL, prefix="backbone."), "backbone.")
    path = save_torch(state, tmp_path / "x.pth")
    assert import_weights(path, num_heads=4, source="dino").architecture.num_prefix == 0
    imported = import_weights(path, num_heads=4, source="timm", grid=(4, 4))
    assert imported.architecture.num_prefix == 1
    assert_same_tokens(imported, lambda x: twin_tokens(state, x, rows=0, resize="antialias"))


def test_half_precision_is_read_as_float32(tmp_path):
    state = random_state(published.MAE_ENCODER)
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}
    save_file(halves, tmp_path / "x.safetensors")
    imported = import_weights(tmp_path / "x.safetensors", num_heads=4)
    assert all(tensor.dtype == np.float32 for tensor in imported.backbone.values())
    np.testing.assert_array_equal(imported.backbone["norm.bias"], halves["norm.bias"].astype(np.float32))


def test_a_network_without_a_bias_has_zeros_for_it(tmp_path):
    state = {name: value for name, value in random_state(published.MAE_ENCODER).items() if "qkv.bias" not in name}
    save_file(state, tmp_path / "x.safetensors")
    imported = import_weights(tmp_path / "x.safetensors", num_heads=4)
    assert not imported.backbone["blocks.1.attn.qkv.bias"].any()
    assert any("no attn.qkv.bias anywhere" in note for note in imported.notes)


def test_mean_and_standard_deviation_are_those_of_the_config(tmp_path):
    save_file(random_state(published.MAE_ENCODER), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch8_32", "model_args": {"num_heads": 4, "img_size": 32}}
    config |= {"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = import_weights(tmp_path)
    assert (imported.mean, imported.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert imported.heads_known
    assert imported.architecture.pos_resize == "bicubic_antialias"


def without(*names):
    return lambda state: {name: value for name, value in state.items() if name not in names}


def adding(**shapes):
    return lambda state: state | {name.replace("__", "."): np.zeros(s, np.float32) for name, s in shapes.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("norm.weight"), "no norm.weight"),
        (
            lambda state: adding(rubbish=(3,))(without("blocks.1.norm1.bias", "blocks.0.mlp.fc2.weight")(state)),
            "unknown rubbish; no blocks.0.mlp.fc2.weight; no blocks.1.norm1.bias",
        ),
        (
            lambda state: state | {"blocks.1.attn.proj.weight": np.zeros((64, 32), np.float32)},
            r"blocks.1.attn.proj.weight \(64, 32\) instead of \(64, 64\)",
        ),
        (without("pos_embed"), "no position embedding"),
        (
            lambda state: state | {"pos_embed": np.zeros((1, 21, 64), np.float32)},
            "21 positions, which are not a square of patches and 1 other tokens",
        ),
        (without(*(f"blocks.0.{name}" for name in ("norm1.weight", "norm1.bias"))), "no blocks.0.norm1.weight"),
        (adding(blocks__0__attn__q_norm__weight=(16,)), "normalised queries and keys"),
        (adding(norm_pre__weight=(64,)), "a norm before the first block"),
        (adding(blocks__0__attn__rel_pos_h=(27, 16)), "relative positions"),
        (
            lambda state: state | {"patch_embed.proj.weight": np.zeros((64, 17, 8, 8), np.float32)},
            r"\(64, 17, 8, 8\); expected \(D, C, p, p\), square patches of images with 16 channels at most",
        ),
    ],
)
def test_what_is_missing_unknown_or_of_a_wrong_shape_is_one_line(tmp_path, change, message):
    save_file(change(random_state(published.MAE_ENCODER)), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        import_weights(tmp_path / "x.safetensors", num_heads=4)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            {"conv1.weight": (64, 3, 7, 7), "bn1.running_mean": (64,), "layer1.0.conv1.weight": (8, 8, 3, 3)},
            "convolutional",
        ),
        ({"patch_embed.proj.kernel": (8, 8, 3, 64)}, "not a vision transformer that is known"),
        ({"model.embed_tokens.weight": (10, 8)}, "a language model"),
    ],
)
def test_other_networks_are_named(tmp_path, shapes, message):
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=rf"{message}.*expected a plain vision transformer"):
        import_weights(tmp_path / "x.safetensors")


def test_wrong_arguments_and_configs_are_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(random_state(published.MAE_ENCODER), path)
    with pytest.raises(UserError, match=r"source 'dimo' is unknown; did you mean .dino."):
        import_weights(path, source="dimo")
    with pytest.raises(UserError, match="5 do not divide it; pass num_heads"):
        import_weights(path, num_heads=5)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_act": "quick_gelu"}))
    with pytest.raises(UserError, match="the activation 'quick_gelu'"):
        import_weights(path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": "many"}))
    with pytest.raises(UserError, match=r"config.json cannot be understood \(ValueError"):
        import_weights(path)


@pytest.mark.parametrize("second", [lambda block: block, lambda block: 0], ids=["of all blocks", "of the chunk"])
def test_blocks_in_chunks_are_the_same_blocks(tmp_path, second):
    state = random_state(published.DINOV2)
    chunked = {}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            name = f"blocks.{block}.{second(int(block))}.{rest}"
        chunked[f"teacher.backbone._fsdp_wrapped_module.{name}"] = tensor
    save_file(state, tmp_path / "plain.safetensors")
    save_file(chunked, tmp_path / "chunked.safetensors")
    plain, found = (import_weights(tmp_path / f"{name}.safetensors", num_heads=4) for name in ("plain", "chunked"))
    chex.assert_trees_all_equal(found.backbone, plain.backbone)


def test_flat_parameters_and_values_that_are_not_finite_are_one_line(tmp_path):
    save_file({"module._flat_param": np.zeros(100, np.float32)}, tmp_path / "flat.safetensors")
    with pytest.raises(UserError, match=r"flat parameters of FSDP \(module._flat_param, 100 values\).*FULL_STATE_DICT"):
        import_weights(tmp_path / "flat.safetensors")
    state = random_state(published.MAE_ENCODER)
    state["blocks.1.mlp.fc2.weight"][0, :3] = np.nan
    state["norm.bias"][0] = np.inf
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"NaN or infinite: 3 of 16384 in blocks.1.mlp.fc2.weight and 1 more tensors"):
        import_weights(tmp_path / "nan.safetensors", num_heads=4)


def test_two_backbones_of_which_none_is_meant(tmp_path):
    state = random_state(published.MAE_ENCODER)
    save_file({f"{side}.{name}": value for side in "ab" for name, value in state.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"holds 2 backbones \(a.; b.\); choose one by its prefix, such as b."):
        import_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("channels", [1, 5])
def test_a_file_of_other_channels_says_how_it_is_normalised_or_half_is_assumed(channels, tmp_path):
    kernel = np.random.default_rng(0).normal(size=(64, channels, 8, 8)).astype(np.float32)
    save_file(random_state(published.MAE_ENCODER) | {"patch_embed.proj.weight": kernel}, tmp_path / "x.safetensors")
    imported = import_weights(tmp_path / "x.safetensors")
    assert imported.architecture.channels == channels
    assert (imported.mean, imported.std) == ((0.5,) * channels,) * 2
    assert any(note.endswith(f"assumed 0.5 for its {channels} channel(s)") for note in imported.notes)
