"""The second stage: what the guide sees and where its attention goes; frozen, sharded, in no checkpoint; bad guides refused."""

import dataclasses
import functools
import logging

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flsl_jax import parallel
from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.config import ParallelConfig, to_dict
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from flsl_jax.data.views import make_views
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.models import ViT
from flsl_jax.objective import num_queries
from flsl_jax.training import cost, memory
from flsl_jax.training.guide import check_same_guide, open_guide
from flsl_jax.training.method import encode_views
from flsl_jax.training.setup import build_training
from flsl_jax.workdir import read_metrics
from tests.objective import reference
from tests.tiny import tiny_config
from tests.training.test_step import assert_same_losses, build, make_batch, run
from tests.weights.test_initial import random_backbone, save

SHARED = {"inv_temp": 0.05, "sharpness": 200.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A weight file of a backbone that is wider and deeper than the run's: path, architecture, parameters."""
    architecture, params = random_backbone(width=64, depth=3, num_heads=1)
    return save(tmp_path_factory.mktemp("guide") / "x.safetensors", architecture, params), architecture, params


def guided_config(source, **groups):
    return tiny_config(**groups | {"guide": SHARED | {"model": source[0]} | groups.get("guide", {})})


def cut(params, depth):
    """What a guide keeps of a backbone's parameters: the first blocks, and no final norm."""
    kept = {name: leaf for name, leaf in params.items() if name != "norm"}
    return kept | {"blocks": jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])}


def altered(params, *, block, norm=1.0):
    """A backbone's parameters with another bias in one block, and its final norm multiplied."""
    params = jax.tree.map(np.copy, params)
    params["blocks"]["norm1"]["bias"][block] += 1
    params["norm"]["scale"] *= norm
    return params


@pytest.fixture(scope="module")
def reference_run(source):
    return run(guided_config(source), steps=2)


@pytest.mark.parametrize("block", [0, -2, 2])
def test_features_are_the_residual_stream_after_the_block_of_normalised_levels(source, block):
    _, architecture, params = source
    guide = open_guide(guided_config(source, guide={"block": block}))
    levels = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), maxval=255.0)
    graph = nnx.split(nnx.eval_shape(lambda: ViT(architecture, rngs=nnx.Rngs(0))), nnx.Param)[0]
    model = nnx.merge(graph, jax.tree.map(jnp.asarray, params))
    stream = model.intermediates(normalise(levels, mean=IMAGENET_MEAN, std=IMAGENET_STD))
    expected = stream[range(3)[block] + 1].reshape(2, 16, 64)
    ours = guide.network.features(jax.tree.map(jnp.asarray, guide.params), levels)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", ["paper", "released"])
def test_positives_are_the_teachers_tokens_weighed_by_what_the_guide_makes_of_the_unaugmented_crops(source, recipe):
    """From views to positives in float64 NumPy, but for the networks."""
    share = 0.75
    weight = {"start": share, "end": share}
    config = guided_config(source, model={"drop_path": 0.0}, views={"recipe": recipe}, guide={"weight": weight})
    training = build(config)
    method, state = training.pure_step.method, training.init()
    images, sample = map(jnp.asarray, make_batch(0))
    prepare = functools.partial(method.prepare, images=images, sample=sample)
    ours = jax.jit(lambda state: method.encode(state.student, prepare(state), state=state))(state)
    views = jax.jit(lambda: make_views(images, sample, seed=config.seed, recipe=method.recipe))()
    student, teacher = (nnx.merge(method.graph, params) for params in (state.student, state.teacher))
    teacher_tokens = np.asarray(encode_views(teacher, views.teacher), np.float64)
    base = np.asarray(method.guide.features(state.guide, images.astype(jnp.float32)), np.float64)
    expected, place = [], 0
    for group, pixels, crops in zip(method.recipe.students, views.students, views.crops, strict=True):
        tokens = np.asarray(encode_views(student, pixels))
        guide_tokens = np.asarray(method.guide.features(state.guide, crops), np.float64)
        count = num_queries((group.size // 8,) * 2, window=config.objective.query_window)
        for view, paired in enumerate(group.teacher_of):
            queries = np.asarray(ours.queries[:, place : place + count], np.float64)
            place += count
            indices = np.abs(queries[:, :, None] - tokens[:, view, None]).max(-1).argmin(-1)
            asking = np.take_along_axis(guide_tokens[:, view], indices[..., None], axis=1)
            guided = reference.guided_weights(asking, base, SHARED["inv_temp"], SHARED["sharpness"])
            own = reference.mean_shift(queries, teacher_tokens[:, paired], config.objective.cross_inv_temp.start)
            expected.append((1 - share) * own + share * guided @ teacher_tokens[:, paired])
    np.testing.assert_allclose(ours.positives, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-4)


def test_with_a_weight_of_zero_the_run_is_the_one_without_a_guide(source):
    history, state = run(guided_config(source, guide={"weight": {"start": 0.0, "end": 0.0}}), steps=2)
    training = build(tiny_config())
    alone = training.init()
    for step, metrics in enumerate(history):
        alone, expected = training.step(alone, *map(jnp.asarray, make_batch(step)))
        assert_same_losses([metrics], [jax.device_get(expected)])
    chex.assert_trees_all_close(state.teacher, jax.device_get(alone.teacher), rtol=1e-5, atol=1e-6)


def test_with_a_weight_of_one_the_teachers_own_attention_plays_no_part(source, reference_run):
    history, _ = run(guided_config(source, objective={"cross_inv_temp": {"start": 0.5, "end": 0.5}}), steps=2)
    assert_same_losses(history, reference_run[0])
    other, _ = run(guided_config(source, guide={"sharpness": 1.0}), steps=2)
    assert abs(other[-1]["inter"] - history[-1]["inter"]) > 1e-5


@pytest.mark.parametrize("changes", [{"devices": 8, "fsdp": 4}, {"micro_batches": 4}], ids=["devices", "micro_batches"])
def test_devices_shards_and_micro_batches_change_nothing(source, reference_run, changes):
    parts = changes.pop("micro_batches", 1)
    history, _ = run(guided_config(source, compute={"micro_batches": parts}), steps=2, **changes)
    assert_same_losses(history, reference_run[0])


def test_the_guide_stays_as_it_was_and_is_sharded_like_the_rest(source, reference_run):
    expected = cut(source[2], 2)
    chex.assert_trees_all_equal(jax.device_get(build(guided_config(source)).init().guide), expected)
    chex.assert_trees_all_equal(reference_run[1].guide, expected)
    kernel = build(guided_config(source), devices=8, fsdp=4).init().guide["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_checkpoints_leave_the_guide_out_a_stopped_run_goes_on_and_guides_the_next(source, tmp_path):
    _, architecture, params = source
    file, whole, stopped = tmp_path / "x.safetensors", tmp_path / "whole", tmp_path / "stopped"
    save(file, architecture, params)
    config = guided_config([str(file)], epochs=1)  # of four steps
    train(config, workdir=whole)
    train(dataclasses.replace(config, stop_at_step=2), workdir=stopped)
    save(file, architecture, altered(params, block=0))
    with pytest.raises(UserError, match="is no longer the guide that this run began with"):
        train(config, workdir=stopped)
    save(file, architecture, params)
    train(config, workdir=stopped)
    (_, expected, _), (step, state, _) = (read_checkpoint(folder / "checkpoints") for folder in (whole, stopped))
    assert step == 4
    assert state.keys() == {"step", "student", "teacher", "opt_state", "center"}
    chex.assert_trees_all_equal(state, expected)
    losses = [[line["loss"] for line in read_metrics(folder / "metrics.jsonl")] for folder in (whole, stopped)]
    assert losses[0] == losses[1]
    # By its teacher it guides the next.
    guide = open_guide(tiny_config(guide={"model": str(whole)}))
    chex.assert_trees_all_equal(guide.params, cut(expected["teacher"]["backbone"], 1))
    assert "teacher of" in guide.report


def test_only_a_guide_that_has_changed_under_its_name_is_refused(source, tmp_path):
    _, architecture, params = source
    path = save(tmp_path / "x.safetensors", architecture, params)
    config = guided_config([path])
    began = {"config": to_dict(config), "guide": open_guide(config).description()}

    def go_on(**guide):
        now = guided_config([path], guide=guide)
        check_same_guide(open_guide(now), config=now, saved=began)

    go_on(weight={"start": 0.5, "end": 0.5})
    # The last block and the final norm have no part in it.
    save(tmp_path / "x.safetensors", architecture, altered(params, block=2, norm=2.0))
    go_on()
    save(tmp_path / "x.safetensors", architecture, altered(params, block=1))
    with pytest.raises(
        UserError, match=r"is no longer the guide that this run began with \(.*; now .*\); put that one back"
    ):
        go_on()
    go_on(block=0)
    save(tmp_path / "y.safetensors", architecture, altered(params, block=1))
    go_on(model=str(tmp_path / "y.safetensors"))
    go_on(model="")
    check_same_guide(open_guide(config), config=config, saved={"config": to_dict(tiny_config()), "guide": None})


def test_a_number_of_heads_that_was_assumed_is_a_warning(source, caplog):
    with caplog.at_level(logging.INFO):
        open_guide(guided_config(source))
        open_guide(guided_config(source, guide={"num_heads": 2}))
    assumed, said = [record for record in caplog.records if "guided by block -2 of" in record.message]
    assert (assumed.levelname, said.levelname) == ("WARNING", "INFO")


def test_a_guide_that_the_config_names_and_nobody_opened_is_an_error(source):
    mesh = parallel.make_mesh(ParallelConfig())
    with pytest.raises(ValueError, match="but the guide given is none"):
        build_training(guided_config(source), mesh=mesh, steps_per_epoch=4)


def test_the_cost_counts_the_guides_blocks_and_its_memory(source):
    guide = open_guide(guided_config(source))
    config = tiny_config()
    more = cost.step_flops_per_image(config, guide=guide.network) - cost.step_flops_per_image(config)
    blocks = cost.forward_flops(tokens=16, patch_size=8, width=64, depth=2)  # up to block -2 of three
    assert more == pytest.approx(3 * blocks + 2 * 2 * 4 * 16 * 64)  # base and two crops; two views of four queries
    sizes = [
        memory.estimate_memory(
            config, parameters=0, guide_parameters=count, devices=1, compute_bytes=4, platform="cpu"
        ).total
        for count in (0, 10**6)
    ]
    assert sizes[1] - sizes[0] == 4 * 10**6


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ({"model": "nowhere.safetensors"}, "config.guide: nowhere.safetensors does not exist"),
        ({"num_heads": 3}, "config.guide: .*; 3 do not divide it"),
        ({"block": 3}, r"config.guide.block is 3, but config.guide.model = '.*' has 3 blocks; expected -3 to 2"),
        ({"block": -4}, "config.guide.block is -4"),
    ],
)
def test_bad_guides_are_refused_before_anything_is_made(source, tmp_path, guide, message):
    with pytest.raises(UserError, match=message):
        train(guided_config(source, guide=guide), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guide_of_other_patches_is_refused(tmp_path):
    path = save(tmp_path / "x.safetensors", *random_backbone(patch_size=4, width=64))
    with pytest.raises(UserError, match=r"has patches of 4 pixels; expected those of config.model.patch_size = 8"):
        open_guide(tiny_config(guide={"model": path}))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ({"weight": {"start": 1.5, "end": 1.0}}, "config.guide.weight.start is 1.5; expected a number from 0 to 1"),
        ({"sharpness": 0.0}, "config.guide.sharpness is 0.0; expected more than 0"),
        ({"inv_temp": -1.0}, "config.guide.inv_temp is -1.0; expected more than 0"),
        ({"modle": "x"}, 'unknown key config.guide.modle; did you mean "model"?'),
    ],
)
def test_values_out_of_range_are_named(guide, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        tiny_config(guide=guide)
