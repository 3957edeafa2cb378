"""Runs that start from weights: what is taken, changed and dropped, exactly; differences refused; a resume ignores it."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.models import Architecture, ViT
from flsl_jax.models.position import sincos_embedding
from flsl_jax.networks import architecture_of, build_network
from flsl_jax.weights.canonical import backbone_tensors, head_tensors
from flsl_jax.weights.initial import read_initial
from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.renaming import to_layout
from tests.tiny import tiny_config
from tests.weights.test_canonical import random_params

# The backbone of tests/tiny.py.
SAME = {"patch_size": 8, "width": 32, "depth": 2, "num_heads": 2, "grid": (4, 4)}


def random_backbone(**changes):
    """Architecture and parameters of a size at which nothing saturates."""
    architecture = Architecture(**SAME | changes)
    params = random_params(ViT(architecture, rngs=nnx.Rngs(0)))
    return architecture, jax.tree.map(lambda leaf: 0.3 * leaf, params)


def save(path, architecture, params, *, head=None, layout="timm"):
    tensors = to_layout(backbone_tensors(params, architecture), LAYOUTS[layout])
    if head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in head_tensors(head).items()}
    save_file(tensors, path)
    return str(path)


def run_model(architecture, params, images):
    graph = nnx.split(nnx.eval_shape(lambda: ViT(architecture, rngs=nnx.Rngs(0))), nnx.Param)[0]
    return np.asarray(nnx.merge(graph, jax.tree.map(jnp.asarray, params))(images))


def test_the_same_network_is_taken_bit_exactly_with_its_head(tmp_path):
    architecture, params = random_backbone()
    head = random_params(build_network(tiny_config(), rngs=nnx.Rngs(1)).head)
    path = save(tmp_path / "x.safetensors", architecture, params, head=head, layout="flsl")
    initial = read_initial(tiny_config(init_from=path))
    chex.assert_trees_all_equal(initial.backbone, params)
    chex.assert_trees_all_equal(initial.head, head)
    assert "head: taken from the source too" in initial.report


def test_layer_scale_is_folded_and_the_embedding_resized_without_changing_the_tokens(tmp_path):
    source, params = random_backbone(layer_scale=True, grid=(6, 6), pos_resize="bicubic_antialias")
    initial = read_initial(tiny_config(init_from=save(tmp_path / "x.safetensors", source, params)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    expected = run_model(source, params, images)
    ours = run_model(architecture_of(tiny_config()), initial.backbone, images)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert "resized from (6, 6) to (4, 4) tokens by bicubic_antialias" in initial.report
    assert "LayerScale folded" in initial.report
    assert "config.model.pos_resize = bicubic_antialias" in initial.report


def test_prefix_tokens_are_dropped_and_a_missing_norm_is_the_identity_both_said(tmp_path):
    source, params = random_backbone(num_prefix=5)
    initial = read_initial(tiny_config(init_from=save(tmp_path / "x.safetensors", source, params)))
    params.pop("prefix")
    chex.assert_trees_all_equal(initial.backbone, params)
    assert "5 prefix token(s) (class token, registers) dropped" in initial.report
    source, params = random_backbone(final_norm=False)
    path = save(tmp_path / "y.safetensors", source, params, layout="detectron2")
    initial = read_initial(tiny_config(init_from=path))
    params["norm"] = {"scale": np.ones(32, np.float32), "bias": np.zeros(32, np.float32)}
    chex.assert_trees_all_equal(initial.backbone, params)


KEPT = {"prefix_tokens": "keep", "num_prefix": 5, "layer_scale": True, "mlp_ratio": 2, "norm_eps": 1e-5}
KEPT |= {"pos_grid": 6, "pos_resize": "bicubic_antialias"}


def test_everything_is_kept_bit_exactly_when_asked_and_the_run_is_the_sources_network(tmp_path):
    changes = {"num_prefix": 5, "layer_scale": True, "mlp_ratio": 2, "grid": (6, 6)}
    source, params = random_backbone(**changes, pos_resize="bicubic_antialias")
    path = save(tmp_path / "x.safetensors", source, params)
    config = tiny_config(init_from=path, model=KEPT | {"norm_eps": 1e-6})
    assert architecture_of(config) == source
    initial = read_initial(config)
    chex.assert_trees_all_equal(initial.backbone, params)
    assert "5 prefix token(s) (class token, registers) kept" in initial.report
    assert "resized" not in initial.report
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    np.testing.assert_array_equal(
        run_model(architecture_of(config), initial.backbone, images), run_model(source, params, images)
    )
    dropped = read_initial(tiny_config(init_from=path, model={"mlp_ratio": 2}))
    assert "config.model.pos_grid = 6 would keep it" in dropped.report


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ({}, {"prefix_tokens": "keep"}, r'prefix_tokens is "keep", but the source has no class token and no registers'),
        ({"num_prefix": 5}, {"prefix_tokens": "keep"}, r"num_prefix is 1, the source has 5 prefix token"),
        (
            {"num_prefix": 1},
            {"prefix_tokens": "keep", "num_prefix": 5},
            r"num_prefix is 5, the source has 1 prefix token",
        ),
        ({}, {"layer_scale": True}, r"layer_scale is True, the source has no LayerScale"),
        ({"num_prefix": 1, "mlp_ratio": 2}, {"mlp_ratio": 4}, r"mlp_ratio is 4, the source has 2"),
    ],
)
def test_what_the_source_lacks_cannot_be_kept(source, model, message, tmp_path):
    path = save(tmp_path / "x.safetensors", *random_backbone(**source))
    with pytest.raises(UserError, match=rf"is another network: config.model.{message}") as caught:
        read_initial(tiny_config(init_from=path, init_reading={"grid": (4, 4)}, model=model))
    assert "\n" not in str(caught.value)


def test_a_prefix_chooses_the_start_among_several_backbones(tmp_path):
    several, (architecture, second) = {}, random_backbone()
    first = jax.tree.map(lambda leaf: leaf + 1, second)
    for name, params in (("first", first), ("second", second)):
        tensors = to_layout(backbone_tensors(params, architecture), LAYOUTS["timm"])
        several |= {f"model.{name}.backbone.{key}": tensor for key, tensor in tensors.items()}
    save_file(several, tmp_path / "x.safetensors")
    config = tiny_config(init_from=str(tmp_path / "x.safetensors"), init_reading={"prefix": "model.second."})
    chex.assert_trees_all_equal(read_initial(config).backbone, second)
    with pytest.raises(UserError, match=r"config.init_reading says how config.init_from is read, which names nothing"):
        tiny_config(init_reading={"prefix": "model.second."})
    with pytest.raises(UserError, match=r"grid is \(4,\); expected rows and columns"):
        tiny_config(init_from="x", init_reading={"grid": (4,)})


def test_a_run_that_kept_its_prefix_tokens_is_the_start_of_another(tmp_path):
    source, params = random_backbone(num_prefix=5, layer_scale=True, mlp_ratio=2, grid=(6, 6))
    path = save(tmp_path / "x.safetensors", source, params)
    workdir = tmp_path / "run"
    train(tiny_config(init_from=path, model=KEPT, stop_at_step=1), workdir=workdir)
    _, state, _ = read_checkpoint(workdir / "checkpoints", parts=["teacher"])
    again = read_initial(tiny_config(init_from=str(workdir), model=KEPT))
    chex.assert_trees_all_equal(again.backbone, state["teacher"]["backbone"])
    plain = read_initial(tiny_config(init_from=str(workdir), model={"mlp_ratio": 2}))
    assert "prefix" not in plain.backbone
    assert plain.backbone.keys() == again.backbone.keys() - {"prefix"}
    assert "ls1" not in plain.backbone["blocks"]


def test_all_differences_come_together_by_the_configs_keys(tmp_path):
    source, params = random_backbone(patch_size=4, width=64, depth=3, mlp_ratio=2)
    with pytest.raises(UserError) as caught:
        read_initial(tiny_config(init_from=save(tmp_path / "x.safetensors", source, params)))
    for part in (
        "config.model.patch_size is 8, the source has 4",
        "config.model.width is 32, the source has 64",
        "config.model.depth is 2, the source has 3",
        "config.model.mlp_ratio is 4, the source has 2",
    ):
        assert part in str(caught.value)


def test_a_fixed_embedding_must_be_that_of_the_source(tmp_path):
    config = tiny_config(model={"pos_embed": "sincos"}, init_from=str(tmp_path / "x.safetensors"))
    source, params = random_backbone()
    save(tmp_path / "x.safetensors", source, params)
    with pytest.raises(UserError, match=r'config.model.pos_embed is "sincos", but the source has another'):
        read_initial(config)
    params["pos_embed"] = sincos_embedding(grid=(4, 4), width=32)
    save(tmp_path / "x.safetensors", source, params)
    params.pop("pos_embed")
    chex.assert_trees_all_equal(read_initial(config).backbone, params)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (
            {"centroids": 12},
            r"new; the source's has other shapes \(last_layer.weight_v \(24, 16\) instead of \(12, 16\)",
        ),
        ({"norm_last_layer": True}, "new; the source's has a learned gain"),
    ],
)
def test_a_head_that_does_not_fit_starts_afresh_and_says_why(tmp_path, head, reason):
    architecture, params = random_backbone()
    own = random_params(build_network(tiny_config(head={"norm_last_layer": False}), rngs=nnx.Rngs(1)).head)
    path = save(tmp_path / "x.safetensors", architecture, params, head=own, layout="flsl")
    initial = read_initial(tiny_config(init_from=path, head=head))
    assert initial.head is None
    assert re.search(reason, initial.report)
    assert "config.head.warmup_epochs = 1.0 would" in initial.report


def test_bad_files_name_the_key_before_anything_is_made(tmp_path):
    with pytest.raises(UserError, match=r"config.init_from: .*nowhere.pth does not exist"):
        train(tiny_config(init_from=str(tmp_path / "nowhere.pth")), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"config.head.warmup_epochs is 1.0, which would freeze a random backbone"):
        tiny_config(head={"warmup_epochs": 1.0})


def test_a_run_holds_the_backbone_while_the_head_warms_up_and_a_resume_ignores_the_file(tmp_path):
    architecture, params = random_backbone()
    path = tmp_path / "x.safetensors"
    workdir = tmp_path / "run"
    settings = {"init_from": save(path, architecture, params), "head": {"warmup_epochs": 1.0}, "parallel": {"fsdp": 4}}
    settings |= {"optimizer": {"freeze_last_layer_epochs": 0.0, "warmup_epochs": 0.0, "lr": 0.005}}
    fresh = nnx.to_pure_dict(nnx.split(build_network(tiny_config(), rngs=nnx.Rngs(0)).head, nnx.Param)[1])

    train(tiny_config(**settings, stop_at_step=4), workdir=workdir)  # an epoch has 4 steps
    _, state, _ = read_checkpoint(workdir / "checkpoints")
    chex.assert_trees_all_equal(state["student"]["backbone"], params)
    chex.assert_trees_all_close(state["teacher"]["backbone"], params, rtol=1e-6)
    changed = jax.tree.map(lambda new, old: float(np.abs(new - np.asarray(old)).max()), state["student"]["head"], fresh)
    assert min(jax.tree.leaves(changed)) > 0

    path.unlink()
    train(tiny_config(**settings, stop_at_step=5), workdir=workdir)
    _, state, _ = read_checkpoint(workdir / "checkpoints")
    moved = jax.tree.map(lambda new, old: float(np.abs(new - old).max()), state["student"]["backbone"], params)
    assert min(jax.tree.leaves(moved)) > 0

    other = tiny_config(init_from=str(workdir))
    chex.assert_trees_all_equal(read_initial(other).backbone, state["teacher"]["backbone"])


def test_a_source_of_other_channels_is_refused(tmp_path):
    source, params = random_backbone(channels=4)
    path = save(tmp_path / "x.safetensors", source, params)
    with pytest.raises(
        UserError, match=r"config\.data\.channels is 3, the source has 4, and its patch projection is for"
    ):
        read_initial(tiny_config(init_from=path))


def test_a_start_of_another_size_names_the_flags_that_give_its_network(tmp_path):
    path = save(tmp_path / "x.safetensors", *random_backbone(mlp_ratio=2))
    with pytest.raises(UserError) as caught:
        read_initial(tiny_config(init_from=path, model={"depth": 1, "mlp_ratio": 4}))
    flags = dict(re.findall(r"--config\.model\.(\w+)=(\S+)", str(caught.value)))
    assert flags.keys() >= {"depth", "mlp_ratio"}
    read_initial(tiny_config(init_from=path, model={name: int(value) for name, value in flags.items()}))
