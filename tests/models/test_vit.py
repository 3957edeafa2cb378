"""The backbone against a torch twin, scanned against unrolled, drop path by hand, any size, prefix, and what is refused."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flsl_jax.models import Architecture, ViT, pad_to_patch
from flsl_jax.models.attention import attend
from flsl_jax.models.layers import gelu, layer_norm

SIZE = {"patch_size": 8, "width": 32, "depth": 3, "num_heads": 2, "grid": (4, 4)}


SHAPE_KEYS = {field.name for field in dataclasses.fields(Architecture)}


def build(seed=0, **changes):
    """The network of `SIZE`; a change goes to the architecture or to what trains and compiles it."""
    shape = {name: value for name, value in changes.items() if name in SHAPE_KEYS}
    rest = {name: value for name, value in changes.items() if name not in SHAPE_KEYS}
    return ViT(Architecture(**SIZE | shape), **rest, rngs=nnx.Rngs(seed))


def params_of(model):
    """Parameters of a size that a trained network has, so that no term hides behind small weights."""
    params = nnx.to_pure_dict(nnx.split(model, nnx.Param)[1])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    return jax.tree.unflatten(
        tree, [leaf + 0.2 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves)]
    )


def with_params(model, params):
    return nnx.merge(nnx.split(model, nnx.Param)[0], params)


def random_images(shape=(2, 32, 32, 3), seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_equals_the_torch_twin_layer_by_layer():
    torch = pytest.importorskip("torch")
    from tests.models import torch_twin

    params = params_of(build())
    model, images = with_params(build(), params), random_images()
    stream, tokens = torch_twin.encode(
        params, torch.tensor(np.asarray(images)), patch_size=8, num_heads=SIZE["num_heads"]
    )
    for ours, theirs in zip(model.intermediates(images), stream, strict=True):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model(images).reshape(tokens.shape), tokens.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{"scan_blocks": False}, {"remat": "full"}, {"remat": "dots"}])
def test_scan_and_remat_change_neither_tokens_nor_gradients(changes):
    params, images = params_of(build()), random_images()
    draws = jax.random.uniform(jax.random.key(1), (2, 3, 2))

    def loss(params, model):
        return jnp.sum(jnp.sin(with_params(model, params)(images, drop_path_draws=draws)))

    expected = jax.value_and_grad(loss)(params, build(drop_path=0.5))
    chex.assert_trees_all_close(
        jax.value_and_grad(loss)(params, build(drop_path=0.5, **changes)), expected, rtol=1e-4, atol=1e-4
    )


def test_drop_path_drops_and_scales_the_branches_that_the_draws_name():
    params, images = params_of(build()), random_images((1, 32, 32, 3))
    model = with_params(build(drop_path=0.4), params)
    rates = np.array([0.0, 0.2, 0.4])
    kept = np.array([[1, 1], [0, 1], [1, 0]])
    draws = np.where(kept, rates[:, None] + 0.01, rates[:, None] - 0.01)[None].clip(0)
    scaled = jax.tree.map(jnp.copy, params)
    for branch, column in (("attn.proj", 0), ("mlp.fc2", 1)):
        outer, inner = branch.split(".")
        for name in ("kernel", "bias"):
            scale = kept[:, column] / (1 - rates)
            leaf = scaled["blocks"][outer][inner][name]
            scaled["blocks"][outer][inner][name] = leaf * scale.reshape(-1, *[1] * (leaf.ndim - 1))
    expected = with_params(build(), scaled)(images)
    ours = model(images, drop_path_draws=jnp.asarray(draws, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model(images), with_params(build(), params)(images), rtol=1e-6)


def test_any_height_and_width_and_the_embedding_of_its_own_grid_is_untouched():
    model = build()
    assert model(random_images((1, 48, 80, 3))).shape == (1, 6, 10, 32)
    plain = build(pos_resize="bicubic_antialias")
    chex.assert_trees_all_equal(model(random_images()), plain(random_images()))


def test_sincos_has_no_parameter_and_does_not_learn():
    params = nnx.to_pure_dict(nnx.split(build(pos_embed="sincos"), nnx.Param)[1])
    assert "pos_embed" not in params
    with pytest.raises(ValueError, match="multiple of 4"):
        build(pos_embed="sincos", width=34, num_heads=2)


def test_only_the_patch_convolution_starts_otherwise():
    ours, theirs = (nnx.to_pure_dict(nnx.split(build(patch_init=init), nnx.Param)[1]) for init in ("normal", "torch"))
    assert not np.asarray(ours["patch_embed"]["proj"]["bias"]).any()
    patch = theirs.pop("patch_embed")["proj"]
    del ours["patch_embed"]
    chex.assert_trees_all_equal(ours, theirs)
    for values in (patch["kernel"], patch["bias"]):
        bound = (3 * 8**2) ** -0.5
        assert 0.9 * bound < float(jnp.abs(values).max()) <= bound


def test_bfloat16_stays_near_float32_and_returns_float32():
    params, images = params_of(build()), random_images()
    tokens = with_params(build(dtype=jnp.bfloat16), params)(images)
    assert tokens.dtype == jnp.float32
    expected = with_params(build(), params)(images)
    assert float(jnp.abs(tokens - expected).mean()) < 0.02 * float(jnp.abs(expected).mean())


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 30, 32, 3), "pad_to_patch"), ((1, 32, 33, 3), "patches of 8 do not divide")]
)
def test_a_size_that_the_patch_does_not_divide_is_refused_and_the_helper_fixes_it(shape, message):
    images = random_images(shape)
    with pytest.raises(ValueError, match=message):
        build()(images)
    padded = pad_to_patch(images, patch_size=8)
    chex.assert_trees_all_equal(padded[:, : shape[1], : shape[2]], images)
    assert build()(padded).shape[0] == 1


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="the 5 heads do not divide"):
        build(num_heads=5)


def test_parameter_counts_are_those_of_the_published_sizes():
    def count(width, num_heads):
        architecture = Architecture(patch_size=16, width=width, depth=12, num_heads=num_heads)
        model = nnx.eval_shape(lambda: ViT(architecture, rngs=nnx.Rngs(0)))
        return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))

    assert round(count(384, 6) / 1e6) in (21, 22)
    assert round(count(768, 12) / 1e6) in (85, 86)


def test_prefix_tokens_take_part_in_attention_and_are_not_handed_out():
    params = params_of(build(num_prefix=2))
    model, images = with_params(build(num_prefix=2), params), random_images((1, 16, 24, 3))
    assert model(images).shape == (1, 2, 3, 32)
    assert model.intermediates(images).shape == (4, 1, 2, 3, 32)
    moved = {**params, "prefix": -2 * params["prefix"]}
    assert float(jnp.abs(with_params(build(num_prefix=2), moved)(images) - model(images)).max()) > 0.01
    without = {name: leaf for name, leaf in params.items() if name != "prefix"}
    assert float(jnp.abs(with_params(build(), without)(images) - model(images)).max()) > 0.01


def test_layer_scale_multiplies_both_branches():
    images, params = random_images(), params_of(build(layer_scale=True))
    folded = {**params, "blocks": {**params["blocks"]}}
    for name, (outer, inner) in {"ls1": ("attn", "proj"), "ls2": ("mlp", "fc2")}.items():
        gamma, branch = folded["blocks"].pop(name)["gamma"], folded["blocks"][outer]
        scaled = {"kernel": branch[inner]["kernel"] * gamma[:, None, :], "bias": branch[inner]["bias"] * gamma}
        folded["blocks"][outer] = {**branch, inner: scaled}
    expected = with_params(build(), folded)(images)
    np.testing.assert_allclose(with_params(build(layer_scale=True), params)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block", [0, 1, -1])
def test_attention_inputs_are_what_the_block_attends_with(block):
    params, images = params_of(build(num_prefix=1)), random_images()
    scan, unrolled = (with_params(build(num_prefix=1, scan_blocks=scan), params) for scan in (True, False))
    inputs = scan.attention_inputs(images, block=block)
    chex.assert_trees_all_close(
        dataclasses.asdict(unrolled.attention_inputs(images, block=block)), dataclasses.asdict(inputs), atol=1e-5
    )
    own = jax.tree.map(lambda leaf: leaf[block], params["blocks"])
    mixed = attend(inputs.query, inputs.key, inputs.value).reshape(2, 17, 32)
    entering = scan.intermediates(images)[range(3)[block]].reshape(2, 16, 32)
    after = entering + (mixed @ own["attn"]["proj"]["kernel"] + own["attn"]["proj"]["bias"])[:, 1:]
    hidden = gelu(layer_norm(after, **own["norm2"]) @ own["mlp"]["fc1"]["kernel"] + own["mlp"]["fc1"]["bias"])
    leaving = after + hidden @ own["mlp"]["fc2"]["kernel"] + own["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(
        scan.intermediates(images)[range(3)[block] + 1].reshape(2, 16, 32), leaving, rtol=1e-4, atol=1e-4
    )
    with pytest.raises(IndexError):
        scan.attention_inputs(images, block=3)
