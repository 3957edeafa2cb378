"""Every damage that a checkpoint can suffer: it is named in one line, and the newest good one is taken."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.checkpoints import Checkpoints, read_checkpoint
from flsl_jax.checkpoints.reading import verify
from flsl_jax.errors import UserError
from flsl_jax.training.keeping.resuming import find_newest, put_aside, restore_newest

GOOD, DAMAGED = 4, 8


def make_state(seed):
    kernel = jax.random.normal(jax.random.key(seed), (64, 128))  # random: what zstd cannot compress it stores as it is
    return {"step": jnp.asarray(seed, jnp.int32), "student": {"kernel": kernel, "bias": jnp.arange(5.0) + seed}}


def write(workdir, steps=(GOOD, DAMAGED)):
    checkpoints = Checkpoints(workdir / "checkpoints", keep=3, best="score")
    for step in steps:
        checkpoints.save(step, make_state(step), run={"config": {"seed": 1}, "step": step}, metrics={"score": 0.5})
    checkpoints.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("written")
    write(workdir)
    return workdir


@pytest.fixture
def workdir(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def every_file(pattern, do):
    def damage(checkpoint):
        paths = [path for path in checkpoint.glob(pattern) if path.is_file()]
        assert paths, pattern
        for path in paths:
            do(path)

    return damage


def largest(pattern, do):
    return lambda checkpoint: do(max(checkpoint.glob(pattern), key=lambda path: path.stat().st_size))


def make_empty_folder(checkpoint):
    remove(checkpoint)
    checkpoint.mkdir()


def make_file(checkpoint):
    remove(checkpoint)
    checkpoint.write_text("not a checkpoint")


DAMAGES = {
    "manifest cut": every_file("state/manifest.ocdbt", cut),
    "manifest emptied": every_file("state/manifest.ocdbt", empty),
    "manifest flipped": every_file("state/manifest.ocdbt", flip),
    "manifest removed": every_file("state/manifest.ocdbt", remove),
    "index cut": every_file("state/d/*", cut),
    "index emptied": every_file("state/d/*", empty),
    "index flipped": every_file("state/d/*", flip),
    "index removed": every_file("state/d/*", remove),
    "arrays cut": largest("state/ocdbt.process_0/d/*", cut),
    "arrays emptied": largest("state/ocdbt.process_0/d/*", empty),
    "arrays flipped": largest("state/ocdbt.process_0/d/*", flip),
    "arrays removed": largest("state/ocdbt.process_0/d/*", remove),
    "all arrays removed": lambda checkpoint: remove(checkpoint / "state" / "ocdbt.process_0"),
    "state removed": lambda checkpoint: remove(checkpoint / "state"),
    "tree cut": every_file("state/_METADATA", cut),
    "tree emptied": every_file("state/_METADATA", empty),
    "tree flipped": every_file("state/_METADATA", flip),
    "tree removed": every_file("state/_METADATA", remove),
    "array metadata cut": every_file("state/array_metadatas/process_0", cut),
    "array metadata emptied": every_file("state/array_metadatas/process_0", empty),
    "description cut": every_file("run/metadata", cut),
    "description flipped": every_file("run/metadata", flip),
    "description of another run": every_file("run/metadata", lambda path: path.write_text('{"config": {"seed": 2}}')),
    "description removed": lambda checkpoint: remove(checkpoint / "run"),
    "metrics cut": every_file("metrics/metrics", cut),
    "digests cut": every_file("digests/process_0.json", cut),
    "digests removed": lambda checkpoint: remove(checkpoint / "digests"),
    "digests flipped": every_file("digests/process_0.json", flip),
    "commit mark removed": every_file("_CHECKPOINT_METADATA", remove),
    "commit mark emptied": every_file("_CHECKPOINT_METADATA", empty),
    "commit mark cut": every_file("_CHECKPOINT_METADATA", cut),
    "empty folder": make_empty_folder,
    "a file": make_file,
}


def resume(workdir):
    """As training does; returns the step and the state."""
    found = find_newest(workdir)
    put_aside(workdir, found.damaged)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=3, best="score")
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), make_state(0)
    )
    try:
        step, state = restore_newest(checkpoints, abstract, workdir=workdir)
        checkpoints.save(DAMAGED, make_state(DAMAGED), run={}, metrics={"score": 0.5})  # its place is free again
        return step, state
    finally:
        checkpoints.close()


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_newest_checkpoint_loses_nothing_but_itself(workdir, damage, caplog):
    damage(workdir / "checkpoints" / str(DAMAGED))

    step, state, _ = read_checkpoint(workdir / "checkpoints")
    assert step == GOOD
    chex.assert_trees_all_equal(state, jax.device_get(make_state(GOOD)))
    assert f"the checkpoint of step {DAMAGED}" in caplog.text
    assert (workdir / "checkpoints" / str(DAMAGED)).exists(), "reading moves nothing"

    with pytest.raises(UserError, match=rf"damaged \(step {DAMAGED}: .*\); name another") as raised:
        read_checkpoint(workdir / "checkpoints", step=DAMAGED)
    assert len(str(raised.value).splitlines()) == 1

    caplog.clear()
    step, state = resume(workdir)
    assert step == GOOD
    chex.assert_trees_all_equal(state, make_state(GOOD))
    lines = [record.message for record in caplog.records if record.name.startswith("flsl_jax")]
    assert len(lines) == 1
    assert lines[0].startswith(f"the checkpoint of step {DAMAGED} is damaged: ")
    assert len(lines[0].splitlines()) == 1
    assert (workdir / "checkpoints_damaged" / str(DAMAGED)).exists()
    chex.assert_trees_all_equal(read_checkpoint(workdir / "checkpoints")[1], jax.device_get(make_state(DAMAGED)))


def test_what_does_not_belong_into_the_folder_is_passed_over(workdir, caplog):
    (workdir / "checkpoints" / "99").mkdir()
    (workdir / "checkpoints" / "notes.txt").write_text("mine")
    assert read_checkpoint(workdir / "checkpoints")[0] == DAMAGED
    assert resume(workdir)[0] == DAMAGED
    assert "step 99 is damaged: the folder is empty" in caplog.text
    assert (workdir / "checkpoints" / "notes.txt").exists()


def test_without_a_good_one_all_are_named_and_nothing_is_moved(workdir):
    remove(workdir / "checkpoints" / str(GOOD) / "run")
    flip(
        max((workdir / "checkpoints" / str(DAMAGED)).glob("state/ocdbt.process_0/d/*"), key=lambda x: x.stat().st_size)
    )
    with pytest.raises(UserError, match=r"all 2 checkpoints .*step 8: .*step 4: run/metadata is missing"):
        read_checkpoint(workdir / "checkpoints")
    remove(workdir / "checkpoints" / str(DAMAGED) / "state")
    with pytest.raises(UserError, match=r"all 2 checkpoints .* take another --workdir"):
        resume(workdir)
    assert not (workdir / "checkpoints_damaged").exists()


def test_checkpoints_is_a_file(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"checkpoints cannot be read .*not a folder"):
        find_newest(tmp_path)


def test_no_flipped_bit_reaches_an_array(workdir):
    """Wherever a bit of the arrays' file flips: its format or the digests notice, unless no array depends on it."""
    path = max(
        (workdir / "checkpoints" / str(DAMAGED)).glob("state/ocdbt.process_0/d/*"), key=lambda x: x.stat().st_size
    )
    content, noticed = path.read_bytes(), 0
    expected = jax.device_get(make_state(DAMAGED))
    for place in np.linspace(0, len(content) - 1, 16).astype(int):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            state = read_checkpoint(workdir / "checkpoints", step=DAMAGED)[1]
        except UserError as error:
            noticed += "not as it was saved" in str(error)
        else:
            chex.assert_trees_all_equal(state, expected)
    assert noticed > 8, "the digests, as nothing else notices"
    path.write_bytes(content)
    assert verify(workdir / "checkpoints" / str(DAMAGED)) == "intact"


def test_a_checkpoint_from_before_digests_is_used_and_said_to_be_so(workdir, caplog):
    for step in (GOOD, DAMAGED):
        checkpoint = workdir / "checkpoints" / str(step)
        remove(checkpoint / "digests")
        mark = checkpoint / "_CHECKPOINT_METADATA"
        values = json.loads(mark.read_text())
        del values["item_handlers"]["digests"]
        mark.write_text(json.dumps(values))
    assert read_checkpoint(workdir / "checkpoints")[0] == DAMAGED
    assert "readable" in verify(workdir / "checkpoints" / str(DAMAGED))
    caplog.clear()
    assert resume(workdir)[0] == DAMAGED
    assert caplog.text.count("without digests") == 1
