"""Conversion of a run to every format: strict loads, equal tokens block by block at two sizes, and back to identical arrays."""

import dataclasses
import functools
import json

import chex
import jax
import numpy as np
import pytest
from flax import nnx

import flsl_jax
from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.config import self_inv_temp
from flsl_jax.errors import UserError
from flsl_jax.weights.canonical import backbone_params, head_params
from flsl_jax.weights.export.counterparts import read_canonical
from flsl_jax.weights.export.exporting import ExportOptions, check_shapes, export, write_trained
from flsl_jax.weights.export.trained import read_trained
from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.reading.files import read_weights
from tests.weights.conversion import (
    PLAIN,
    SHAPE,
    SIZES,
    STEP,
    assert_equal_outputs,
    expected,
    images,
    place,
    small_config,
    write_run,
)
from tests.weights.test_layouts import GOLDEN

FILES = [name for name in PLAIN if LAYOUTS[name].kind == "file"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_checkpoint_of_eight_devices_goes_to_every_format_and_back_to_identical_arrays(name, workdir, converted):
    report = converted(name)
    _, state, _ = read_checkpoint(workdir / "checkpoints", parts=["teacher"])
    arch = read_trained(workdir, networks=["teacher"]).architecture
    back = read_canonical(report.path, name=name, network="teacher", architecture=arch)
    params = state["teacher"]["backbone"]
    if not LAYOUTS[name].final_norm:
        assert "left out norm.weight, norm.bias" in report.text()
        arch, params = dataclasses.replace(arch, final_norm=False), {k: v for k, v in params.items() if k != "norm"}
    chex.assert_trees_all_equal(backbone_params(back, arch), params)


@pytest.mark.parametrize("name", PLAIN)
def test_a_converted_file_loads_again_as_the_same_network(name, trained, converted):
    model = flsl_jax.load(converted(name).path)
    tensors = trained.backbones["teacher"]
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    assert (model.architecture.num_heads, model.architecture.pos_resize) == (4, "bicubic")
    kept = {key: tensor for key, tensor in tensors.items() if model.architecture.final_norm or key[:5] != "norm."}
    chex.assert_trees_all_equal(jax.device_get(params), backbone_params(kept, model.architecture))


def test_a_converted_file_is_as_readable_as_any_other(converted, tmp_path):
    (tmp_path / "other").touch()
    written = converted("timm").path / "model.safetensors"
    assert written.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("name", ["flsl", "dino"])
def test_both_networks_with_their_heads_go_round(name, workdir, trained, tmp_path):
    path = place(tmp_path, name)
    export(workdir, path, ExportOptions(format=name, network="both", what="all"))
    tensors = read_weights(path).tensors
    assert tensors["student.module.head.last_layer.weight_v"].shape == (40, 16)
    _, state, _ = read_checkpoint(workdir / "checkpoints")
    for network, prefix in (("teacher", "teacher.head."), ("student", "student.module.head.")):
        head = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        chex.assert_trees_all_equal(head_params(head, norm_last_layer=True), state[network]["head"])
        back = read_canonical(path, name=name, network=network, architecture=trained.architecture)
        chex.assert_trees_all_equal(backbone_params(back, trained.architecture), state[network]["backbone"])


@pytest.mark.parametrize("name", PLAIN)
def test_metadata_says_what_a_reader_needs(name, converted):
    report = converted(name)
    said = read_weights(report.path).metadata
    assert said["layout"] == name
    assert said["format"] == "pt"
    arch = json.loads(said["architecture"])
    assert (arch["patch_size"], arch["num_heads"], arch["grid"], arch["norm_eps"]) == (16, 4, [14, 14], 1e-6)
    assert (arch["pos_embed"], arch["pos_resize"]) == ("learned", "bicubic")
    assert said["target_pos_resize"] == LAYOUTS[name].pos_resize
    assert json.loads(said["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(said["image_size"]) == [224, 224]
    assert json.loads(said["inv_temp"]) == self_inv_temp(small_config()).end == flsl_jax.load(report.path).inv_temp
    assert (said["class_token"], said["final_norm"]) == ("false", "true" if LAYOUTS[name].final_norm else "false")
    assert (said["recipe"], said["step"], said["source"]) == ("paper", str(STEP), "first")
    assert {"flsl_jax", "jax", "numpy"} <= json.loads(said["versions"]).keys()


@pytest.mark.parametrize("name", FILES)
def test_equals_a_twin_of_the_published_layout_loaded_strictly(name, trained, converted):
    torch = pytest.importorskip("torch")
    from tests.weights import framework_twins

    kinds = {
        "flsl": framework_twins.Release,
        "dino": functools.partial(framework_twins.Release, cls_token=False),
        "detectron2": framework_twins.Detectron2,
        "mmdet-vitdet": framework_twins.Detectron2,
        "mmseg": framework_twins.Mmseg,
        "mmpretrain": framework_twins.Mmpretrain,
    }
    content = torch.load(converted(name, ".pth").path, weights_only=True)
    key = "teacher" if LAYOUTS[name].wrapper == "network" else LAYOUTS[name].wrapper
    model = kinds[name](**SHAPE).eval()
    model.load_state_dict({key.removeprefix(LAYOUTS[name].prefix): tensor for key, tensor in content[key].items()})
    changes = {"pos_resize": LAYOUTS[name].pos_resize, "final_norm": LAYOUTS[name].final_norm}
    for size in SIZES:
        with torch.inference_mode():
            stream, tokens = model(torch.tensor(images(size)).permute(0, 3, 1, 2))
        assert_equal_outputs([*stream, tokens], expected(trained, size, **changes))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_the_printed_snippet_reads_the_file_for_a_strict_load(name, suffix, workdir, tmp_path):
    torch = pytest.importorskip("torch")
    report = export(
        workdir,
        place(tmp_path, name, suffix),
        ExportOptions(format=name, network="student" if name == "flsl" else "teacher"),
    )
    compile(report.snippet, "snippet", "exec")
    kept = ("from safetensors", "state = ")
    names = {"torch": torch}
    exec("\n".join(line for line in report.snippet.splitlines() if line.startswith(kept)), names)
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    blocks = [f".{number}." for number in range(SHAPE["depth"], 12)]
    shallow = {key for key in golden if not any(part in key.replace("ffn.layers", "ffn") for part in blocks)}
    assert names["state"].keys() in (shallow, {key.removeprefix(LAYOUTS[name].prefix) for key in shallow})


def test_timm_normalises_with_the_mean_of_the_training(converted):
    config = json.loads((converted("timm").path / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]
    assert config["pretrained_cfg"]["std"] == [0.229, 0.224, 0.225]
    assert config["model_args"]["class_token"] is False
    assert config["model_args"]["global_pool"] == ""


def test_transformers_is_told_the_epsilon(converted):
    for name in ("transformers", "transformers-vitdet"):
        assert json.loads((converted(name).path / "config.json").read_text())["layer_norm_eps"] == 1e-6


def test_trap_mmseg_would_cut_a_position_embedding_without_its_extra_row(trained, converted):
    torch = pytest.importorskip("torch")
    from tests.weights.framework_twins import Mmseg

    state = torch.load(converted("mmseg", ".pth").path, weights_only=True)["state_dict"]
    x, wanted = torch.tensor(images((224, 224))).permute(0, 3, 1, 2), expected(trained, (224, 224))[-1]
    for rows, error in ((state["pos_embed"], 0.0), (state["pos_embed"][:, 1:], 0.1)):
        model = Mmseg(**SHAPE).eval()
        model.init_weights(state | {"pos_embed": rows})
        with torch.inference_mode():
            moved = float(np.abs(model(x)[1].numpy() - wanted).max())
        assert moved < 1e-4 if not error else moved > error


def test_trap_mmseg_without_patch_bias_drops_it_and_the_snippet_sets_it(converted):
    torch = pytest.importorskip("torch")
    from tests.weights.framework_twins import Mmseg

    report = converted("mmseg", ".pth")
    state = torch.load(report.path, weights_only=True)["state_dict"]
    unexpected = Mmseg(**SHAPE, patch_bias=False).load_state_dict(state, strict=False).unexpected_keys
    assert unexpected == ["patch_embed.projection.bias"]
    assert "patch_bias=True" in report.snippet
    assert any("patch_bias=True" in line for line in report.allowances)


def test_trap_detectron2_gets_prefixed_names_without_norm_and_no_heuristics(converted):
    report = converted("detectron2")
    names = read_weights(report.path).tensors
    assert all(name.startswith("backbone.net.") for name in names)
    assert not any("norm.weight" in name and "blocks" not in name for name in names)
    assert "pretrain_use_cls_token=False" in report.snippet
    assert any("matching_heuristics" in line for line in report.allowances)


def test_trap_another_resize_of_the_position_embedding_is_measured_and_named(converted):
    for name, moved in (("timm", True), ("flsl", True), ("mmpretrain", False)):
        report = converted(name)
        said = [line for line in report.allowances if "the weights expect bicubic" in line]
        assert bool(said) == moved
        assert not moved or float(said[0].split()[-1]) > 1e-3


def test_a_target_that_computes_something_else_is_refused_and_leaves_nothing(trained, tmp_path):
    pytest.importorskip("torch")
    other = dataclasses.replace(trained, architecture=dataclasses.replace(trained.architecture, norm_eps=0.5))
    options = ExportOptions(format="dino")
    with pytest.raises(UserError, match=r"computes something else: it differs by .*nothing was written"):
        write_trained(other, tmp_path / "dino.pth", options)
    assert list(tmp_path.iterdir()) == []
    report = write_trained(other, tmp_path / "dino.pth", dataclasses.replace(options, allow_mismatch=True))
    assert not report.parities["teacher"].holds
    assert "epsilon is 1e-06 there and 0.5 here" in report.text()
    held = write_trained(other, tmp_path / "mmseg.pth", ExportOptions(format="mmseg"))
    assert held.parities["teacher"].holds
    assert "eps=0.5" in held.snippet


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["timm", "transformers", "mmpretrain"])
def test_smaller_dtypes_are_written_compared_and_named(name, dtype, workdir, tmp_path):
    report = export(workdir, place(tmp_path, name), ExportOptions(format=name, dtype=dtype))
    assert {tensor.dtype.name for tensor in read_weights(report.path).tensors.values()} == {dtype}
    assert any(f"rounded to {dtype}: tokens move by up to" in line for line in report.allowances)
    assert report.parities["teacher"] is None or report.parities["teacher"].holds


def test_bfloat16_in_a_pth(workdir, tmp_path):
    torch = pytest.importorskip("torch")
    export(workdir, tmp_path / "d2.pth", ExportOptions(format="detectron2", dtype="bfloat16"))
    assert torch.load(tmp_path / "d2.pth", weights_only=True)["model"]["backbone.net.pos_embed"].dtype == torch.bfloat16


def test_sincos_is_written_out_and_named(tmp_path):
    workdir = write_run(tmp_path / "run", small_config(pos_embed="sincos"))
    report = export(workdir, tmp_path / "vit", ExportOptions(format="timm"))
    assert any("sin-cos position embedding is written out" in line for line in report.allowances)
    rows = read_weights(report.path).tensors["pos_embed"]
    assert rows.shape == (1, 196, 32)
    assert rows[0, 0, 8:16].tolist() == [1.0] * 8


def test_class_token_registers_and_layer_scale_reach_timm_and_are_refused_elsewhere(trained, tmp_path):
    arch = dataclasses.replace(trained.architecture, num_prefix=3, layer_scale=True)
    rng = np.random.default_rng(2)
    tensors = dict(trained.backbones["teacher"]) | {"prefix": rng.normal(size=(1, 3, 32)).astype(np.float32)}
    for block in range(2):
        for branch in ("ls1", "ls2"):
            tensors[f"blocks.{block}.{branch}.gamma"] = rng.normal(size=32).astype(np.float32)
    foreign = dataclasses.replace(trained, architecture=arch, backbones={"teacher": tensors})
    report = write_trained(foreign, tmp_path / "vit", ExportOptions(format="timm"))
    assert report.parities["teacher"] is None or report.parities["teacher"].holds
    back = read_canonical(report.path, name="timm", network="teacher", architecture=arch)
    chex.assert_trees_all_equal(back, tensors)
    with pytest.raises(UserError, match=r"3 prefix token.*holds none; it has no LayerScale.*timm"):
        write_trained(foreign, tmp_path / "x.pth", ExportOptions(format="detectron2"))


def test_every_tensor_that_is_not_as_the_config_says_is_in_one_error(trained):
    tensors = dict(trained.backbones["teacher"])
    tensors["extra"] = tensors.pop("norm.bias")
    tensors["pos_embed"] = tensors["pos_embed"][:, :100]
    with pytest.raises(
        UserError, match=r"extra is unknown; norm\.bias is missing; pos_embed is \(1, 100, 32\) instead of"
    ):
        check_shapes(tensors, trained.architecture, source="first")


def test_numbers_that_float16_cannot_hold_are_refused(trained, tmp_path):
    tensors = dict(trained.backbones["teacher"])
    tensors["norm.bias"] = np.full_like(tensors["norm.bias"], 1e6)
    large = dataclasses.replace(trained, backbones={"teacher": tensors})
    with (
        pytest.raises(UserError, match=r"norm\.bias: not finite as float16; use --dtype=bfloat16"),
        np.errstate(all="ignore"),
    ):
        write_trained(large, tmp_path / "vit", ExportOptions(format="timm", dtype="float16"))


def test_what_is_there_already_is_kept_or_replaced_when_asked(workdir, tmp_path):
    path = tmp_path / "vit"
    export(workdir, path, ExportOptions(format="timm"))
    before = (path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="exists; name another --output, or replace it with --overwrite"):
        export(workdir, path, ExportOptions(format="timm"))
    export(workdir, path, ExportOptions(format="timm", network="student", overwrite=True))
    assert (path / "model.safetensors").read_bytes() != before
    (path / "thesis.tex").write_text("do not lose this")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which no conversion wrote"):
        export(workdir, path, ExportOptions(format="timm", overwrite=True))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["vit"]


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("x.pth", {"format": "timm"}, "loads a folder, such as"),
        ("x.bin", {"format": "mmseg"}, r"ends in \.pth"),
        (
            "vit",
            {"format": "timm", "what": "all"},
            "no place for a head; use --what=backbone, or --format=flsl or dino",
        ),
        ("vit", {"format": "timm", "network": "both"}, "holds one network"),
        ("vit", {"format": "torchvision"}, "always has a class token"),
        ("vit", {"format": "tim"}, 'did you mean "timm"'),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_read(output, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export(tmp_path / "nowhere", tmp_path / output, ExportOptions(**options))


def test_without_torch_a_pth_is_refused_and_safetensors_are_offered(workdir, tmp_path):
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"needs PyTorch.*or write .*d2\.safetensors"):
            export(workdir, tmp_path / "d2.pth", ExportOptions(format="detectron2"))
        report = export(workdir, tmp_path / "d2.safetensors", ExportOptions(format="detectron2"))
        assert "parity: not checked; torch is not installed; pip install" in report.text()
    else:
        pytest.skip("PyTorch is installed")
