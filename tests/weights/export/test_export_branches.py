"""SwiGLU MLPs and rotary positions on their way out: to formats that hold them, refused by the others, and by training."""

import dataclasses
import json

import chex
import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.export.exporting import ExportOptions, export
from flsl_jax.weights.export.trained import read_trained
from flsl_jax.weights.initial import read_initial
from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.reading.importing import import_weights
from tests.frameworks import import_framework, random_images, torch_tokens
from tests.tiny import tiny_config
from tests.weights.gated_rotary import HEADS, dinov2_giant, dinov3, reference_tokens


@pytest.fixture(name="giant")
def _giant(tmp_path):
    save_file(dinov2_giant(), tmp_path / "giant.safetensors")
    return tmp_path / "giant.safetensors"


@pytest.fixture(name="rotary")
def _rotary(tmp_path):
    save_file(dinov3(gated=True), tmp_path / "rotary.safetensors")
    return tmp_path / "rotary.safetensors"


def options(name, **changes):
    plain = ExportOptions(format=name)
    return dataclasses.replace(plain, reading=dataclasses.replace(plain.reading, num_heads=HEADS), **changes)


def test_a_giant_goes_to_dinov2_and_back_under_its_own_names(giant, tmp_path):
    report = export(giant, tmp_path / "out.safetensors", options("dinov2"))
    written = read_weights(report.path)
    assert written.tensors["blocks.1.mlp.w12.weight"].shape == (80, 32)
    assert (
        json.loads(written.metadata["architecture"])["mlp"],
        "rope_periods" in written.metadata["architecture"],
    ) == (
        "swiglu",
        False,
    )
    assert 'ffn_layer="swiglu"' in report.snippet
    assert "mlp_ratio=1.875" in report.snippet  # of which the class takes two thirds: 40 of 32
    back = import_weights(report.path)
    chex.assert_trees_all_equal(back.backbone, import_weights(giant, num_heads=HEADS).backbone)
    if report.parities["teacher"] is not None:
        assert report.parities["teacher"].holds


def test_a_giant_goes_to_timm_which_computes_the_same(giant, tmp_path):
    timm = import_framework("timm")
    report = export(giant, tmp_path / "out", options("timm"))
    assert report.parities["teacher"].holds
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    images = random_images(32, 32)
    found = torch_tokens(lambda x: model(x)[:, model.num_prefix_tokens :], images)
    np.testing.assert_allclose(found, reference_tokens(dinov2_giant(), images, eps=1e-6), atol=5e-5)


def test_a_giant_without_layer_scale_goes_to_timm_without_it(tmp_path):
    state = {name: tensor for name, tensor in dinov2_giant().items() if ".ls" not in name}
    save_file(state, tmp_path / "plain.safetensors")
    export(tmp_path / "plain.safetensors", tmp_path / "out", options("timm"))
    arguments = json.loads((tmp_path / "out" / "config.json").read_text())["model_args"]
    assert arguments["init_values"] is None  # and not left out: timm's giant has 1e-5
    timm = import_framework("timm")
    assert (
        timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).blocks[0].ls1.__class__.__name__
        == "Identity"
    )


def test_timms_config_names_the_one_network_whose_mlps_are_such(giant, tmp_path):
    export(giant, tmp_path / "out", options("timm"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "vit_giant_patch14_dinov2"
    assert int(32 * config["model_args"]["mlp_ratio"]) == 80
    again = import_weights(tmp_path / "out")
    chex.assert_trees_all_equal(again.backbone, import_weights(giant, num_heads=HEADS).backbone)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dinov3_goes_back_into_its_own_layout(rotary, tmp_path, dtype):
    report = export(rotary, tmp_path / "out.safetensors", options("dinov3", dtype=dtype))
    tensors = read_weights(report.path).tensors
    original = dinov3(gated=True)
    assert tensors.keys() == {name for name in original if "bias_mask" not in name}
    np.testing.assert_array_equal(tensors["rope_embed.periods"], original["rope_embed.periods"])
    back = import_weights(report.path)
    assert back.architecture == import_weights(rotary).architecture
    if dtype == "float32":
        chex.assert_trees_all_equal(back.backbone, import_weights(rotary).backbone)
        np.testing.assert_array_equal(tensors["blocks.0.mlp.w2.bias"], original["blocks.0.mlp.w2.bias"])
    parity = report.parities["teacher"]
    assert parity is None or parity.holds
    assert 'norm_layer="layernormbf16"' in report.snippet


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if not layout.rotary])
def test_formats_with_an_embedding_refuse_rotary_positions(rotary, tmp_path, name):
    with pytest.raises(UserError, match=r"its positions are an embedding, and the network's are rotary") as caught:
        export(rotary, tmp_path / ("out" if LAYOUTS[name].kind == "folder" else "out.safetensors"), options(name))
    assert "tokens and branches: dinov3; onnx and stablehlo hold every network" in str(caught.value)


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.swiglu is None])
def test_formats_without_swiglu_refuse_it(giant, tmp_path, name):
    with pytest.raises(UserError, match=r"its MLPs are GELU's, and the network's are SwiGLU's"):
        export(giant, tmp_path / ("out" if LAYOUTS[name].kind == "folder" else "out.safetensors"), options(name))


def test_what_the_class_of_a_format_cannot_be_built_with_is_refused(giant, rotary, tmp_path):
    with pytest.raises(UserError, match=r"its positions are rotary, and the network's are an embedding"):
        export(giant, tmp_path / "out.safetensors", options("dinov3"))
    state = dinov2_giant()
    for number in range(2):
        for leaf in ("weight", "bias"):
            first, last = (f"blocks.{number}.mlp.{layer}.{leaf}" for layer in ("w12", "w3"))
            state[first] = np.delete(state[first], (39, 79), axis=0)
            state[last] = state[last][:, :39] if leaf == "weight" else state[last]
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in state.items()}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="a multiple of 8 hidden channels, and the network's have 39"):
        export(tmp_path / "odd.safetensors", tmp_path / "out.safetensors", options("dinov2"))


def test_training_refuses_both_by_name(giant, rotary):
    for path, message in ((giant, "the source has SwiGLU MLPs"), (rotary, "the source has rotary positions")):
        with pytest.raises(UserError, match=message):
            read_initial(tiny_config(init_from=str(path), model={"width": 32, "num_heads": 2}))


def test_detectors_refuse_both_by_name(rotary):
    pytest.importorskip("torch")
    from flsl_jax.transfer.networks.backbone import torch_backbone
    from flsl_jax.transfer.networks.vit import BackboneOptions
    from flsl_jax.weights.load import load_network

    with pytest.raises(UserError, match="the backbone has rotary positions, which detectors here cannot"):
        torch_backbone(load_network(rotary), options=BackboneOptions(), blocks=[1])


def test_a_read_network_has_every_tensor_of_its_architecture(rotary):
    trained = read_trained(rotary, networks=("teacher",))
    assert trained.backbones["teacher"]["rope_periods"].shape == (4,)
