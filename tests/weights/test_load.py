"""`flsl_jax.load`: one model from a run, its checkpoint, a weight file or a folder; what is none of these is refused."""

import dataclasses
import json

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import flsl_jax
from flsl_jax.checkpoints import Checkpoints
from flsl_jax.config import to_dict
from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.models import Architecture, ViT
from flsl_jax.networks import architecture_of, build_network
from flsl_jax.weights.canonical import backbone_tensors, head_tensors
from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.load import load_network
from flsl_jax.weights.renaming import to_layout
from tests.tiny import tiny_config
from tests.weights.test_canonical import random_params

CONFIG = tiny_config()


def params_of(model):
    return nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A workdir with one checkpoint; teacher and student have their own random numbers."""
    workdir = tmp_path_factory.mktemp("run")
    teacher = random_params(build_network(CONFIG, rngs=nnx.Rngs(0)))
    state = {"teacher": teacher, "student": {**teacher, "backbone": {**teacher["backbone"]}}}
    state["student"]["backbone"]["pos_embed"] = -teacher["backbone"]["pos_embed"]
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    checkpoints.save(5, state, run={"config": to_dict(CONFIG), "step": 5})
    checkpoints.close()
    return workdir, state


def as_release(network):
    """A network of a run as the release names it."""
    tensors = to_layout(backbone_tensors(network["backbone"], architecture_of(CONFIG)), LAYOUTS["flsl"])
    return tensors | {f"head.{name}": tensor for name, tensor in head_tensors(network["head"]).items()}


def test_workdir_checkpoint_safetensors_and_pth_give_the_same_model(run, tmp_path):
    torch = pytest.importorskip("torch")
    workdir, state = run
    states = {name: as_release(state[name]) for name in ("teacher", "student")}
    torch.save(
        {name: {key: torch.tensor(x) for key, x in tensors.items()} for name, tensors in states.items()},
        tmp_path / "both.pth",
    )
    save_file(states["teacher"], tmp_path / "teacher.safetensors")
    for path in (workdir, workdir / "checkpoints", workdir / "checkpoints" / "5"):
        chex.assert_trees_all_equal(params_of(flsl_jax.load(path)), state["teacher"]["backbone"])
    for path in (tmp_path / "both.pth", tmp_path / "teacher.safetensors"):
        model = flsl_jax.load(path, num_heads=2)
        chex.assert_trees_all_equal(params_of(model), state["teacher"]["backbone"])
    student = flsl_jax.load(tmp_path / "both.pth", network="student", num_heads=2)
    chex.assert_trees_all_equal(params_of(student), state["student"]["backbone"])
    chex.assert_trees_all_equal(params_of(flsl_jax.load(workdir, network="student")), state["student"]["backbone"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_format_that_is_written_is_read_back_bit_exactly(tmp_path, name):
    architecture = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(3, 3))
    if LAYOUTS[name].rotary:
        architecture = dataclasses.replace(architecture, pos_embed="rope", rope_periods=(1.0, 10.0))
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    tensors = to_layout(backbone_tensors(params, architecture), LAYOUTS[name])
    save_file(tensors, tmp_path / "model.safetensors")
    found = params_of(flsl_jax.load(tmp_path / "model.safetensors", num_heads=2))
    if not LAYOUTS[name].final_norm:
        params.pop("norm")
    chex.assert_trees_all_equal(found, params)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_metadata_says_what_the_tensors_do_not(tmp_path, suffix):
    architecture = Architecture(
        patch_size=4, width=16, depth=1, num_heads=4, grid=(2, 8), norm_eps=1e-3, pos_resize="bicubic_dino"
    )
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    metadata = {"layout": "timm", "architecture": json.dumps(vars(architecture))}
    metadata |= {"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 1]", "inv_temp": "0.25"}
    path, tensors = tmp_path / f"x{suffix}", backbone_tensors(params, architecture)
    if suffix == ".pth":
        torch = pytest.importorskip("torch")
        torch.save(
            {"model": {key: torch.tensor(x) for key, x in tensors.items()}, "meta": metadata | {"epoch": 3}}, path
        )
    else:
        save_file(tensors, path, metadata=metadata)
    loaded = load_network(path)
    assert loaded.model.architecture == architecture
    assert loaded.mean == (0.1, 0.2, 0.3)
    assert loaded.model.inv_temp == 0.25
    assert open_model(str(path)).encoder.inv_temp == 0.25
    assert "assumed" not in loaded.report


def test_prefix_tokens_take_part_and_are_not_among_the_tokens(tmp_path):
    architecture = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(3, 3), num_prefix=5)
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    save_file(to_layout(backbone_tensors(params, architecture), LAYOUTS["timm"]), tmp_path / "x.safetensors")
    model = flsl_jax.load(tmp_path / "x.safetensors", num_heads=2)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 20, 3)), jnp.float32)
    tokens = model(images)
    assert tokens.shape == (1, 3, 5, 16)
    model.prefix[...] = -model.prefix[...]
    assert float(jnp.abs(model(images) - tokens).max()) > 1e-3


def test_a_run_of_another_device_computes_here_in_float32_or_as_asked(run, tmp_path):
    """cuDNN's attention in bfloat16 on a CPU raised a RuntimeError when the loaded model was called."""
    _, state = run
    trained = tiny_config(compute={"dtype": "bfloat16", "attention": "cudnn", "remat": "full", "scan_blocks": "scan"})
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(5, state, run={"config": to_dict(trained), "step": 5})
    checkpoints.close()
    (tmp_path / "config.json").write_text(json.dumps(to_dict(trained)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    expected = flsl_jax.load(run[0])(images)
    np.testing.assert_array_equal(flsl_jax.load(tmp_path)(images), expected)
    untrained = open_model(f"untrained:{tmp_path}").encoder.tokens(np.zeros((1, 32, 32, 3), np.uint8))
    assert np.isfinite(untrained).all()
    rounded = flsl_jax.load(tmp_path, dtype="bfloat16")
    assert rounded.dtype == jnp.bfloat16
    assert 1e-4 < float(jnp.abs(rounded(images) - expected).mean()) < 0.1
    with pytest.raises(UserError, match="dtype is 'float64'; expected 'float32' or 'bfloat16'"):
        flsl_jax.load(tmp_path, dtype="float64")


def test_a_weight_file_too_computes_as_asked(tmp_path):
    architecture = Architecture(patch_size=4, width=16, depth=1, num_heads=2, grid=(3, 3))
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    save_file(to_layout(backbone_tensors(params, architecture), LAYOUTS["timm"]), tmp_path / "x.safetensors")
    for dtype in ("float32", "bfloat16"):
        model = flsl_jax.load(tmp_path / "x.safetensors", num_heads=2, dtype=dtype)
        assert model.dtype == jnp.dtype(dtype)
        chex.assert_trees_all_equal(params_of(model), params)


def test_what_is_nothing_to_load_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match="does not exist; expected a run's workdir, a checkpoint in it, or a weight file"
    ):
        flsl_jax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither a run's workdir"):
        flsl_jax.load(tmp_path)

    with pytest.raises(UserError, match="num_heads is -4; expected a whole number of heads"):
        flsl_jax.load(tmp_path, num_heads=-4)
