"""The DINO twin: its loss from views to number, one step on eight devices, micro-batches, its run and its cost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.dino_vits16 import twin
from flsl_jax.config import parse_config
from flsl_jax.data.views import make_views
from flsl_jax.loop import train
from flsl_jax.training import cost, memory
from flsl_jax.training.dino import DinoMethod
from flsl_jax.training.step import TrainStep
from flsl_jax.workdir import METRICS_FILE, read_metrics
from tests import tiny
from tests.objective.test_instance import dino_loss_reference
from tests.training.test_step import build, make_batch, run


def dino_config(**groups):
    values = twin(tiny.get_config(), local_size=16).to_dict()
    for name, group in groups.items():
        values[name] = {**values[name], **group} if isinstance(group, dict) else group
    return parse_config(values)


def tokens_of(graph, params, pixels):
    return np.asarray(nnx.merge(graph, params).backbone(jnp.asarray(pixels)), np.float64)


def test_the_steps_loss_is_that_of_mean_tokens_centred_and_sharpened():
    config = dino_config(model={"drop_path": 0.0})
    training = build(config)
    method, graph, state = training.pure_step.method, training.pure_step.graph, training.init()
    center = np.linspace(-0.2, 0.3, config.head.centroids, dtype=np.float32)
    state = dataclasses.replace(
        state, center=jnp.asarray(center), teacher=jax.tree.map(lambda x: 1.1 * x, state.teacher)
    )
    images, sample = map(jnp.asarray, make_batch(0))
    views = jax.jit(lambda: make_views(images, sample, seed=config.seed, recipe=method.recipe))()
    assert views.teacher.shape[1:] == (2, 32, 32, 3)
    assert [x.shape[1:] for x in views.students] == [(8, 16, 16, 3)]

    def logits(params, view):
        feature = tokens_of(graph, params, view).mean(axis=(1, 2))
        return np.asarray(nnx.merge(graph, params).head(jnp.asarray(feature, jnp.float32)), np.float64)

    seen = [*np.moveaxis(np.asarray(views.teacher), 1, 0), *np.moveaxis(np.asarray(views.students[0]), 1, 0)]
    student = np.stack([logits(state.student, view) for view in seen], axis=1)
    teacher = np.stack([logits(state.teacher, view) for view in seen[:2]], axis=1)
    scaled = (teacher - center) / config.objective.teacher_temp.start
    probs = np.exp(scaled - scaled.max(-1, keepdims=True))
    expected = dino_loss_reference(student, probs / probs.sum(-1, keepdims=True), config.objective.student_temp)

    new_state, metrics = training.step(state, images, sample)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=2e-6)
    np.testing.assert_allclose(new_state.center, 0.9 * center + 0.1 * teacher.mean((0, 1)), atol=1e-6)


def test_the_step_is_the_same_class_for_both_methods():
    step = build(dino_config()).pure_step
    assert type(step) is TrainStep
    assert isinstance(step.method, DinoMethod)


def test_eight_devices_and_micro_batches_give_the_losses_of_one():
    whole, _ = run(dino_config(), steps=3)
    for changes, spread in (({}, {"devices": 8, "fsdp": 2}), ({"compute": {"micro_batches": 4}}, {})):
        history, _ = run(dino_config(**changes), steps=3, **spread)
        np.testing.assert_allclose([x["loss"] for x in history], [x["loss"] for x in whole], rtol=1e-6)


def test_a_run_trains_resumes_and_reports_no_modes(tmp_path):
    config = dino_config(epochs=2)
    train(dataclasses.replace(config, stop_at_step=3), workdir=tmp_path)
    assert train(config, workdir=tmp_path).finished
    lines = read_metrics(tmp_path / METRICS_FILE)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert "teacher_entropy" in lines[-1]
    assert not {"attention_share", "mode_similarity", "intra"} & lines[-1].keys()


def test_flops_count_ten_student_views_two_teacher_views_and_a_row_of_the_head_each():
    config = dino_config()
    size = {"patch_size": 8, "width": 32, "depth": 2}
    large, small = (cost.forward_flops(tokens=tokens, **size) for tokens in (16, 4))
    row = cost.head_flops(width=32, hidden=32, bottleneck=16, centroids=24)
    assert cost.step_flops_per_image(config) == 4 * 2 * large + 3 * 8 * small + (3 * 10 + 2) * row


def test_the_estimate_of_memory_counts_the_small_views():
    def activations(count):
        config = dino_config(views={"local_count": count})
        return memory.estimate_memory(config, parameters=0, devices=1, compute_bytes=4, platform="cpu").activations

    assert activations(0) < activations(2) < activations(8)
