"""The step: devices, micro-batches, FSDP, traces, transfers, collectives, stop-gradients, non-finite samples."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.config import ParallelConfig
from flsl_jax.training.guide import open_guide
from flsl_jax.training.setup import build_training
from tests.tiny import tiny_config

STEPS_PER_EPOCH = 4


def make_batch(step, batch_size=8, size=32):
    rng = np.random.default_rng(step)
    images = rng.integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    return images, np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.uint32)


def build(config, *, devices=1, fsdp=1):
    mesh = jax.make_mesh(
        (devices // fsdp, fsdp),
        ("data", "fsdp"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )
    return build_training(config, mesh=mesh, steps_per_epoch=STEPS_PER_EPOCH, guide=open_guide(config))


def run(config, *, steps, devices=1, fsdp=1):
    """Metrics of each step and the last state, on the host."""
    training = build(config, devices=devices, fsdp=fsdp)
    state, history = training.init(), []
    for step in range(steps):
        images, sample = (parallel.to_devices(x, training.batch_sharding) for x in make_batch(step, config.batch_size))
        state, metrics = training.step(state, images, sample)
        history.append(jax.device_get(metrics))
    return history, jax.device_get(state)


@pytest.fixture(scope="module")
def reference():
    return run(tiny_config(), steps=10)


def assert_same_losses(history, expected, *, tolerance=1e-6):
    for ours, theirs in zip(history, expected, strict=True):
        for name in ("loss", "intra", "inter", "volume"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_give_the_losses_of_one(reference, fsdp):
    history, _ = run(tiny_config(), steps=10, devices=8, fsdp=fsdp)
    assert_same_losses(history, reference[0])


def gradients(config):
    training = build(config)
    state = training.init()
    images, sample = map(jnp.asarray, make_batch(0, config.batch_size))
    grad = jax.jit(jax.grad(training.pure_step._loss, has_aux=True))
    return jax.device_get(grad(state.student, state=state, images=images, sample=sample)[0])


def test_micro_batches_give_the_gradients_of_the_whole_batch():
    """To 1e-6 of each tensor's largest gradient: single elements that nearly cancel carry the sum's rounding."""
    whole, parts = gradients(tiny_config()), gradients(tiny_config(compute={"micro_batches": 4}))
    errors = jax.tree.map(lambda ours, theirs: np.abs(ours - theirs).max() / np.abs(theirs).max(), parts, whole)
    assert max(jax.tree.leaves(errors)) < 1e-6, errors


def test_micro_batches_on_eight_devices():
    config = tiny_config(batch_size=16)
    expected, _ = run(config, steps=2)
    history, _ = run(tiny_config(batch_size=16, compute={"micro_batches": 2}), steps=2, devices=8)
    assert_same_losses(history, expected)


@pytest.mark.parametrize(
    "groups",
    [
        {"views": {"recipe": "released"}, "model": {"pos_embed": "sincos"}},
        {"objective": {"targets": "sinkhorn", "volume_weight": 0.0, "cross_query": "mode"}},
        {"objective": {"targets": "centering", "volume_weight": 0.0, "query_random": False}},
        {"objective": {"projected_weight": {"start": 1.0, "end": 0.0}}},
        {"compute": {"remat": "full", "scan_blocks": "scan"}, "optimizer": {"clip": "global"}},
    ],
    ids=["released", "sinkhorn", "centering", "projected", "remat"],
)
def test_every_option_steps_and_stays_finite(groups):
    history, state = run(tiny_config(**groups), steps=2)
    chex.assert_tree_all_finite(history)
    assert state.step == 2
    centred = groups.get("objective", {}).get("targets") == "centering"
    assert np.any(state.center != 0) == centred


def test_remat_and_scanned_blocks_change_nothing(reference):
    config = tiny_config(compute={"remat": "full", "scan_blocks": "scan"})
    history, _ = run(config, steps=2)
    assert_same_losses(history, reference[0][:2])


def test_equal_temperatures_on_either_scale_give_the_same_metrics_to_the_bit():
    """At a width of 32, a power of 2, the division is exact."""
    temps = {"self_inv_temp": (0.25, 0.5), "cross_inv_temp": (0.5, 0.5)}
    histories = []
    for scale, factor in (("sum", 1), ("mean", 32)):
        keys = {name: {"start": factor * start, "end": factor * end} for name, (start, end) in temps.items()}
        histories.append(run(tiny_config(objective={**keys, "inv_temp_scale": scale}), steps=2)[0])
    chex.assert_trees_all_equal(*histories)


def test_a_student_so_sharp_that_centroids_have_no_probability_still_has_finite_gradients():
    history, _ = run(tiny_config(objective={"student_temp": 0.001}), steps=2)
    assert all(np.isfinite(value) for metrics in history for value in metrics.values())


def test_the_teacher_is_the_moving_average_of_the_student():
    training = build(tiny_config(teacher={"momentum": {"start": 0.9, "end": 0.9}}))
    before = jax.device_get(training.init())
    images, sample = map(jnp.asarray, make_batch(0))
    after = jax.device_get(training.step(training.init(), images, sample)[0])
    expected = jax.tree.map(lambda old, new: 0.9 * old + (1 - 0.9) * new, before.teacher, after.student)
    chex.assert_trees_all_close(after.teacher, expected, rtol=1e-5, atol=1e-7)


def test_earlier_blocks_learn_more_slowly_with_layer_decay():
    """By d² and d for blocks 0 and 1 of 2, and d³ before them; 1 for the head."""
    optimizer = {"warmup_epochs": 0.0, "weight_decay": {"start": 0.0, "end": 0.0}}
    whole, slow = (run(tiny_config(optimizer=optimizer | {"layer_decay": d}), steps=1)[1] for d in (1.0, 0.5))
    first = jax.device_get(build(tiny_config()).init().student)
    same, scaled = (jax.tree.map(lambda new, old: new - old, state.student, first) for state in (whole, slow))
    fc1, shares = (change["backbone"]["blocks"]["mlp"]["fc1"]["kernel"] for change in (same, scaled))
    np.testing.assert_allclose(shares, fc1 * np.array([0.25, 0.5])[:, None, None], rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(
        scaled["backbone"]["pos_embed"], 0.125 * same["backbone"]["pos_embed"], rtol=1e-2, atol=1e-6
    )
    np.testing.assert_array_equal(scaled["head"]["fc1"]["kernel"], same["head"]["fc1"]["kernel"])


def test_the_last_layer_is_frozen_in_the_first_epoch_and_moves_after_it(reference):
    first = jax.device_get(build(tiny_config()).init())
    _, at_end = run(tiny_config(), steps=STEPS_PER_EPOCH)
    _, later = run(tiny_config(), steps=STEPS_PER_EPOCH + 1)
    chex.assert_trees_all_equal(at_end.student["head"]["last_layer"], first.student["head"]["last_layer"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), later.student, first.student)
    assert all(change > 0 for change in jax.tree.leaves(moved["head"]["last_layer"]))


def test_the_step_is_traced_once_and_moves_nothing_between_host_and_devices():
    training = build(tiny_config(), devices=8)
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(training.pure_step.__call__, n=1), donate_argnums=0)
    state = training.init()
    for step in range(3):
        images, sample = (parallel.to_devices(x, training.batch_sharding) for x in make_batch(step))
        with jax.transfer_guard("disallow"):
            state, _ = counted(state, images, sample)
    assert int(state.step) == 3


def test_the_only_collectives_are_sums_of_gradients_and_small_vectors():
    config = tiny_config()
    training = build(config, devices=8)
    images, sample = make_batch(0)
    hlo = training.step.lower(training.abstract_state, images, sample).compile().as_text()
    kinds = set(re.findall(r" (all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce)(?:-start)?\(", hlo))
    assert kinds == {"all-reduce"}


def test_the_state_is_donated():
    training = build(tiny_config())
    state = training.init()
    images, sample = map(jnp.asarray, make_batch(0))
    training.step(state, images, sample)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.student))


def test_mesh_config_builds_the_same_mesh():
    mesh = build(tiny_config(), devices=8, fsdp=4).batch_sharding.mesh
    assert parallel.make_mesh(ParallelConfig(fsdp=4)).shape == mesh.shape
