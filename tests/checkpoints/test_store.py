"""Checkpoints: round trips across topologies, retention, half-written ones, mismatches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.checkpoints import CheckpointPlace, Checkpoints, find_checkpoint, read_checkpoint
from flsl_jax.config import ParallelConfig
from flsl_jax.errors import UserError


def make_state(value=1.0, shape=(64, 128)):
    return {"step": jnp.asarray(3, jnp.int32), "student": {"kernel": jnp.full(shape, value), "bias": jnp.arange(5.0)}}


def sharded(state, **axes):
    mesh = parallel.make_mesh(ParallelConfig(**axes))
    return jax.device_put(state, parallel.state_shardings(state, mesh=mesh))


def abstract(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)


def open_checkpoints(folder, *, keep=3, best="score"):
    return Checkpoints(folder / "checkpoints", keep=keep, best=best)


def committed_steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def test_restores_bit_exactly_onto_another_mesh(tmp_path):
    written, wanted = sharded(make_state(), fsdp=8), sharded(make_state(0.0), fsdp=2)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(3, written, run={"config": {"seed": 1}})
    checkpoints.wait()
    restored = checkpoints.restore(3, abstract(wanted))
    checkpoints.close()
    chex.assert_trees_all_equal(restored, written)
    assert restored["student"]["kernel"].sharding == wanted["student"]["kernel"].sharding


def test_reads_back_as_numpy_without_the_devices_it_was_written_on(tmp_path):
    written = sharded(make_state(), fsdp=8)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(3, written, run={"config": {"seed": 1}})
    checkpoints.close()
    step, state, run = read_checkpoint(tmp_path / "checkpoints")
    assert (step, run) == (3, {"config": {"seed": 1}})
    assert isinstance(state["student"]["kernel"], np.ndarray)
    chex.assert_trees_all_equal(state, jax.device_get(written))


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = open_checkpoints(tmp_path, keep=2)
    scores = {1: 0.2, 2: 0.9, 3: 0.3, 4: None, 5: 0.4}
    for step, score in scores.items():
        checkpoints.save(step, sharded(make_state(step)), run={}, metrics=None if score is None else {"score": score})
        checkpoints.wait()
    checkpoints.close()
    assert committed_steps(tmp_path) == [2, 4, 5]


def test_another_metric_chooses_among_the_checkpoints_that_have_it(tmp_path):
    """A run goes on with another metric for the best: what was kept by the first one counts as the worst."""
    checkpoints = open_checkpoints(tmp_path, keep=1)
    checkpoints.save(1, sharded(make_state(1)), run={}, metrics={"score": 0.9, "other": 0.1})
    checkpoints.close()
    checkpoints = open_checkpoints(tmp_path, keep=1, best="other")
    for step, other in {2: 0.5, 3: 0.3, 4: 0.2}.items():
        checkpoints.save(step, sharded(make_state(step)), run={}, metrics={"score": 0.0, "other": other})
        checkpoints.wait()
    checkpoints.close()
    assert committed_steps(tmp_path) == [2, 4]


def test_keeps_only_the_newest_when_the_best_is_not_asked_for(tmp_path):
    checkpoints = open_checkpoints(tmp_path, keep=1, best=None)
    for step, score in {1: 0.9, 2: 0.1}.items():
        checkpoints.save(step, sharded(make_state(step)), run={}, metrics={"score": score})
        checkpoints.wait()
    checkpoints.close()
    assert committed_steps(tmp_path) == [2]


def test_a_half_written_checkpoint_is_never_read(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(1, sharded(make_state()), run={})
    checkpoints.close()
    torn = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp-17"
    (torn / "state").mkdir(parents=True)
    reopened = open_checkpoints(tmp_path)
    assert reopened.latest_step == 1
    reopened.close()
    assert read_checkpoint(tmp_path / "checkpoints")[0] == 1


def test_a_folder_without_a_committed_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no committed checkpoint"):
        read_checkpoint(tmp_path / "checkpoints")


def test_a_checkpoint_of_another_network_is_refused_by_name(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(3, sharded(make_state()), run={})
    checkpoints.wait()
    other = abstract(sharded(make_state(shape=(64, 256))))
    with pytest.raises(UserError, match=r"student.kernel \(64, 128\) instead of \(64, 256\)"):
        checkpoints.restore(3, other)
    checkpoints.close()


def test_reads_only_the_parts_that_are_asked_for(tmp_path):
    written = sharded(make_state(), fsdp=8)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(3, written, run={})
    checkpoints.close()
    _, state, _ = read_checkpoint(tmp_path / "checkpoints", parts=["student"])
    assert state.keys() == {"student"}
    chex.assert_trees_all_equal(state["student"], jax.device_get(written["student"]))


def test_what_a_person_names_is_found_or_refused(tmp_path):
    folder = tmp_path / "checkpoints"
    (folder / "7").mkdir(parents=True)
    assert find_checkpoint(tmp_path) == find_checkpoint(folder) == CheckpointPlace(folder, None)
    assert find_checkpoint(folder / "7") == CheckpointPlace(folder, 7)
    torn = folder / "8.orbax-checkpoint-tmp-17"
    torn.mkdir()
    for path, message in (
        (torn, "was never completed"),
        (tmp_path / "no", "does not exist"),
        (tmp_path.parent, "neither"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoint(path)


def test_a_checkpoint_without_its_commit_mark_is_refused(tmp_path):
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(2, sharded(make_state()), run={})
    checkpoints.close()
    (tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match="no commit mark"):
        read_checkpoint(tmp_path / "checkpoints")
