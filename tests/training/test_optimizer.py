"""AdamW, clip, decay mask, frozen last layer and EMA against torch and hand-worked cases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flsl_jax.training.optimizer import (
    apply_update,
    clip_gradients,
    decay_mask,
    ema_update,
    learning_rates,
    make_optimizer,
)


def make_params(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "backbone": {
            "pos_embed": normal(1, 4, 6),
            "prefix": normal(2, 6),
            "patch_embed": {"proj": {"kernel": normal(12, 6), "bias": normal(6)}},
            "blocks": {
                "norm1": {"scale": normal(3, 6)},
                "ls1": {"gamma": normal(3, 6)},
                "mlp": {"fc1": {"kernel": normal(3, 6, 8), "bias": normal(3, 8)}},
            },
            "norm": {"scale": normal(6)},
        },
        "head": {"last_layer": {"kernel": normal(6, 5)}},
    }


def test_decay_spares_biases_norms_and_one_dimensional_parameters():
    mask = decay_mask(make_params())
    assert mask["backbone"]["pos_embed"]
    assert mask["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert mask["head"]["last_layer"]["kernel"]
    assert not mask["backbone"]["blocks"]["mlp"]["fc1"]["bias"]
    assert not mask["backbone"]["blocks"]["norm1"]["scale"]
    assert not mask["backbone"]["norm"]["scale"]


def test_decay_and_layer_rates_are_dinov2s_for_every_parameter():
    """As `dinov2/utils/param_groups.py` has them, by names: three blocks, decay of the learning rate 0.5."""
    rates, decays = learning_rates(make_params(), layer_decay=0.5), decay_mask(make_params())
    found = {
        jax.tree_util.keystr(path, simple=True, separator="."): (np.ravel(rate).tolist(), decay)
        for (path, rate), decay in zip(jax.tree_util.tree_leaves_with_path(rates), jax.tree.leaves(decays))
    }
    blocks = [0.125, 0.25, 0.5]
    assert found == {
        "backbone.pos_embed": ([0.0625], True),
        "backbone.prefix": ([0.0625], True),
        "backbone.patch_embed.proj.kernel": ([0.0625], True),
        "backbone.patch_embed.proj.bias": ([0.0625], False),
        "backbone.blocks.norm1.scale": (blocks, False),
        "backbone.blocks.ls1.gamma": (blocks, False),
        "backbone.blocks.mlp.fc1.kernel": (blocks, True),
        "backbone.blocks.mlp.fc1.bias": (blocks, False),
        "backbone.norm.scale": ([1.0], False),
        "head.last_layer.kernel": ([1.0], True),
    }


def test_tensor_clip_treats_each_block_as_a_tensor_of_its_own():
    grads = make_params()
    clipped = clip_gradients(grads, mode="tensor", max_norm=1.0).grads
    kernel = np.asarray(grads["backbone"]["blocks"]["mlp"]["fc1"]["kernel"], np.float64)
    for before, after in zip(kernel, clipped["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]):
        norm = np.sqrt((before**2).sum())
        np.testing.assert_allclose(after, before * min(1.0, 1.0 / (norm + 1e-6)), rtol=1e-6)
    assert np.linalg.norm(np.ravel(clipped["backbone"]["pos_embed"])) <= 1.0 + 1e-6


def test_global_clip_bounds_the_whole_norm_and_leaves_small_gradients_alone():
    grads = make_params()
    np.testing.assert_allclose(
        optax.tree.norm(clip_gradients(grads, mode="global", max_norm=2.0).grads), 2.0, rtol=1e-5
    )
    chex.assert_trees_all_equal(clip_gradients(grads, mode="global", max_norm=1e6).grads, grads)
    chex.assert_trees_all_equal(clip_gradients(grads, mode="none", max_norm=1e-6).grads, grads)


@pytest.mark.parametrize("mode", ["tensor", "global", "none"])
def test_norm_is_that_of_all_gradients_before_the_clip(mode):
    grads = make_params()
    every = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)
    np.testing.assert_allclose(clip_gradients(grads, mode=mode, max_norm=0.5).norm, np.linalg.norm(every), rtol=1e-6)


def steps_with_ours(params, grads_of, *, steps, layer_decay=1.0, **freeze):
    optimizer = make_optimizer(b1=0.9, b2=0.999, **freeze)
    state = optimizer.init(params)
    for step in range(steps):
        direction, state = optimizer.update(grads_of(step), state, params)
        params = apply_update(
            params,
            direction,
            step=jnp.asarray(step),
            lr=jnp.float32(0.01 * (step + 1)),
            weight_decay=jnp.float32(0.1),
            layer_decay=layer_decay,
            **freeze,
        )
    return params


@pytest.mark.parametrize(("last_layer", "backbone"), [(0, 0), (3, 0), (3, 2), (0, 4)])
def test_equals_torch_adamw_with_parts_that_get_no_gradient_at_first(last_layer, backbone):
    torch = pytest.importorskip("torch")
    params = make_params()
    freeze = {"freeze_last_layer_steps": last_layer, "freeze_backbone_steps": backbone}
    ours = steps_with_ours(params, make_params, steps=6, **freeze)

    paths = jax.tree_util.tree_flatten_with_path(params)[0]
    decays = jax.tree.leaves(decay_mask(params))
    tensors = [torch.nn.Parameter(torch.tensor(np.asarray(leaf))) for _, leaf in paths]
    optimizer = torch.optim.AdamW(
        [{"params": [tensor], "weight_decay": 0.1 if decay else 0.0} for tensor, decay in zip(tensors, decays)],
        betas=(0.9, 0.999),
    )
    for step in range(6):
        for tensor, (path, _), grad in zip(tensors, paths, jax.tree.leaves(make_params(step))):
            name = jax.tree_util.keystr(path)
            held = ("last_layer" in name and step < last_layer) or ("backbone" in name and step < backbone)
            tensor.grad = None if held else torch.tensor(np.asarray(grad))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        optimizer.step()
    for leaf, tensor in zip(jax.tree.leaves(ours), tensors):
        np.testing.assert_allclose(leaf, tensor.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_layer_decay_multiplies_the_step_of_torch_adamw_and_its_weight_decay():
    torch = pytest.importorskip("torch")
    freeze = {"freeze_last_layer_steps": 0, "freeze_backbone_steps": 0}
    ours = steps_with_ours(make_params(), make_params, steps=4, layer_decay=0.6, **freeze)
    rates, decays = learning_rates(make_params(), layer_decay=0.6), jax.tree.leaves(decay_mask(make_params()))
    for leaf, rate, decay, *grads, after in zip(
        *(jax.tree.leaves(tree) for tree in (make_params(), rates)),
        decays,
        *(jax.tree.leaves(make_params(step)) for step in range(4)),
        jax.tree.leaves(ours),
        strict=True,
    ):
        for block, own in enumerate(np.ravel(rate)):
            part = block if np.size(rate) > 1 else ...
            tensor = torch.nn.Parameter(torch.tensor(np.asarray(leaf)[part]))
            optimizer = torch.optim.AdamW([tensor], betas=(0.9, 0.999), weight_decay=0.1 if decay else 0.0)
            for step in range(4):
                tensor.grad = torch.tensor(np.asarray(grads[step])[part])
                optimizer.param_groups[0]["lr"] = 0.01 * (step + 1) * float(own)
                optimizer.step()
            np.testing.assert_allclose(np.asarray(after)[part], tensor.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_one_learning_rate_for_all_layers_is_what_no_layer_decay_gives_to_the_bit():
    freeze = {"freeze_last_layer_steps": 0, "freeze_backbone_steps": 0}
    plain = steps_with_ours(make_params(), make_params, steps=2, **freeze)
    chex.assert_trees_all_equal(plain, steps_with_ours(make_params(), make_params, steps=2, layer_decay=1.0, **freeze))
    slower = steps_with_ours(make_params(), make_params, steps=2, layer_decay=0.5, **freeze)
    chex.assert_trees_all_equal(plain["head"], slower["head"])
    moved = jax.tree.map(
        lambda new, old, start: float(np.abs(new - start).sum() / np.abs(old - start).sum()),
        slower,
        plain,
        make_params(),
    )
    assert moved["backbone"]["prefix"] == pytest.approx(0.0625, rel=0.05)


def test_ema_is_the_weighted_mean():
    average, params = make_params(0), make_params(1)
    updated = ema_update(average, params, momentum=jnp.float32(0.75))
    expected = jax.tree.map(lambda a, b: 0.75 * np.asarray(a) + 0.25 * np.asarray(b), average, params)
    chex.assert_trees_all_close(updated, expected, rtol=1e-6)


def test_a_run_without_frozen_backbone_keeps_the_optimizer_state_of_older_checkpoints():
    params = make_params()
    with_option = make_optimizer(b1=0.9, b2=0.999, freeze_last_layer_steps=3, freeze_backbone_steps=0).init(params)
    assert with_option.inner_states.keys() == {"body", "last_layer"}
