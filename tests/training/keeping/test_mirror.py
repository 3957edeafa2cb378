"""The copy of a workdir in an object store: complete checkpoints, a run that goes on from it, a store that fails."""

import json
import shutil
import time
import uuid

import fsspec
import jax
import numpy as np
import pytest

from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.training.keeping import mirror as mirror_module
from flsl_jax.training.keeping.lock import locked
from flsl_jax.training.keeping.mirror import mirrored
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config

TIMING = ("images_per_sec", "data_wait_share", "mfu")
MARK = "_CHECKPOINT_METADATA"


@pytest.fixture
def url():
    """A folder of fsspec's store in memory, which has the interface of the others."""
    return f"memory://bucket/{uuid.uuid4().hex}/run"


def names(url):
    files, root = fsspec.url_to_fs(url)
    return {path.removeprefix(f"{root}/") for path in files.find(root)}


def add_checkpoint(workdir, step, *, content=b"arrays"):
    folder = workdir / "checkpoints" / str(step)
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "data").write_bytes(content)
    (folder / MARK).write_text(json.dumps({"at": uuid.uuid4().hex}))


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def update(url, workdir):
    with mirrored(url, workdir) as mirror:
        mirror.update()


def test_a_run_whose_disk_is_gone_goes_on_from_the_copy_as_if_nothing_was(tmp_path, url):
    def config(stop, mirror=""):
        return tiny_config(stop_at_step=stop, checkpoint={"mirror": mirror})

    train(config(4, url), workdir=tmp_path / "lost")
    shutil.rmtree(tmp_path / "lost")
    train(config(8, url), workdir=tmp_path / "new")
    train(config(8), workdir=tmp_path / "whole")
    ends = [read_checkpoint(tmp_path / name / "checkpoints") for name in ("new", "whole")]
    assert ends[0][0] == ends[1][0] == 8
    jax.tree.map(np.testing.assert_array_equal, ends[0][1], ends[1][1])
    lines = [
        [{key: value for key, value in line.items() if key not in TIMING} for line in read_metrics(path)]
        for path in (tmp_path / name / "metrics.jsonl" for name in ("new", "whole"))
    ]
    assert lines[0] == lines[1]
    copied = names(url)
    assert f"checkpoints/8/{MARK}" in copied
    assert {"config.json", "metrics.jsonl", "curves.png", "mirror.json"} <= copied
    assert "run.lock" not in copied


def test_checkpoints_that_training_deletes_are_deleted_and_one_saved_again_is_copied_again(tmp_path, url):
    add_checkpoint(tmp_path, 2)
    add_checkpoint(tmp_path, 4)
    (tmp_path / "checkpoints_damaged" / "3").mkdir(parents=True)
    (tmp_path / "checkpoints_damaged" / "3" / "x").write_text("x")
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp-1").mkdir()
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp-1" / "x").write_text("x")
    update(url, tmp_path)
    two, four = ({f"checkpoints/{step}/state/data", f"checkpoints/{step}/{MARK}"} for step in (2, 4))
    assert names(url) == {"mirror.json"} | two | four
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    add_checkpoint(tmp_path, 4, content=b"others")
    update(url, tmp_path)
    assert names(url) == {"mirror.json"} | four
    files, root = fsspec.url_to_fs(url)
    assert files.cat_file(f"{root}/checkpoints/4/state/data") == b"others"


def test_a_copy_without_its_mark_is_not_fetched(tmp_path, url):
    add_checkpoint(tmp_path / "first", 2)
    add_checkpoint(tmp_path / "first", 4)
    update(url, tmp_path / "first")
    files, root = fsspec.url_to_fs(url)
    files.rm_file(f"{root}/checkpoints/4/{MARK}")
    with mirrored(url, tmp_path / "second"):
        assert [path.name for path in (tmp_path / "second" / "checkpoints").iterdir()] == ["2"]


def test_a_workdir_that_is_as_new_is_left_as_it_is(tmp_path, url):
    add_checkpoint(tmp_path / "first", 2)
    (tmp_path / "first" / "config.json").write_text("{}")
    update(url, tmp_path / "first")
    add_checkpoint(tmp_path / "second", 2)
    with mirrored(url, tmp_path / "second"):
        assert [path.name for path in tmp_path.glob("second/*")] == ["checkpoints"]


def test_a_workdir_that_is_older_gets_what_it_lacks_and_no_newer_checkpoint_of_the_copy_is_deleted(tmp_path, url):
    for step in (2, 4):
        add_checkpoint(tmp_path / "first", step)
    (tmp_path / "first" / "metrics.jsonl").write_text("new")
    update(url, tmp_path / "first")
    add_checkpoint(tmp_path / "second", 2, content=b"its own")
    (tmp_path / "second" / "metrics.jsonl").write_text("old")
    update(url, tmp_path / "second")
    assert (tmp_path / "second" / "checkpoints" / "2" / "state" / "data").read_bytes() == b"its own"
    assert (tmp_path / "second" / "checkpoints" / "4" / "state" / "data").read_bytes() == b"arrays"
    assert (tmp_path / "second" / "metrics.jsonl").read_text() == "new"
    assert f"checkpoints/4/{MARK}" in names(url)


def test_of_two_runs_with_one_copy_the_first_stops_copying(tmp_path, url, caplog):
    for name, step in (("first", 4), ("second", 2)):
        add_checkpoint(tmp_path / name, step)
    with mirrored(url, tmp_path / "first") as first:
        first.update()
        wait_until(lambda: f"checkpoints/4/{MARK}" in names(url))
        shutil.rmtree(tmp_path / "second")
        add_checkpoint(tmp_path / "second", 6)
        update(url, tmp_path / "second")
        first.update()
    assert "is kept by another run now (process " in caplog.text
    assert f"checkpoints/6/{MARK}" in names(url)
    assert f"checkpoints/4/{MARK}" not in names(url)


def test_a_start_that_the_lock_refuses_takes_and_fetches_no_copy(tmp_path, url):
    add_checkpoint(tmp_path, 2)
    update(url, tmp_path)
    files, root = fsspec.url_to_fs(url)
    owner = files.cat_file(f"{root}/mirror.json")
    with mirrored(url, tmp_path):  # as long as nothing is saved
        pass
    assert files.cat_file(f"{root}/mirror.json") == owner
    shutil.rmtree(tmp_path / "checkpoints")
    with locked(tmp_path), pytest.raises(UserError, match="is in use by"), mirrored(url, tmp_path):
        pass
    assert not (tmp_path / "checkpoints").exists()


def test_a_store_that_fails_for_a_while_is_said_and_tried_again(tmp_path, url, caplog, monkeypatch):
    monkeypatch.setattr(mirror_module, "FIRST_PAUSE", 0.05)
    put, failures = mirror_module._Store.put, iter(["Connection reset by peer"] * 2)

    def flaky(store, path, name):
        for message in failures:
            raise OSError(0, message)
        put(store, path, name)

    monkeypatch.setattr(mirror_module._Store, "put", flaky)
    add_checkpoint(tmp_path, 2)
    with mirrored(url, tmp_path) as mirror:
        mirror.update()
        wait_until(lambda: "is up to date again" in caplog.text)
    assert caplog.text.count("could not be brought up to date (Connection reset by peer); the run goes on") == 2
    assert f"checkpoints/2/{MARK}" in names(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nowhere://bucket/run", "Protocol not known: nowhere"),
        ("file:///proc/nothing/run", "check the name, the rights and the network"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_begins(tmp_path, url, said):
    with pytest.raises(UserError, match=r"config.checkpoint.mirror=\w+://") as caught:
        train(tiny_config(checkpoint={"mirror": url}), workdir=tmp_path / "run")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_copy_inside_of_the_workdir_is_refused(tmp_path):
    with pytest.raises(UserError, match="lies in the workdir"), mirrored(f"{tmp_path}/run/copy", tmp_path / "run"):
        pass


def test_another_disk_may_hold_the_copy(tmp_path):
    add_checkpoint(tmp_path / "first", 2)
    update(str(tmp_path / "disk"), tmp_path / "first")
    with mirrored(str(tmp_path / "disk"), tmp_path / "second"):
        assert [path.name for path in (tmp_path / "second" / "checkpoints").iterdir()] == ["2"]


def test_an_s3_bucket_of_an_emulator(tmp_path, monkeypatch):
    """Where moto and s3fs are installed."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        url = "s3://models/runs/mine"
        with pytest.raises(UserError, match="cannot be used"), mirrored(url, tmp_path / "first"):
            pass
        fsspec.filesystem("s3").mkdir("models")
        add_checkpoint(tmp_path / "first", 2)
        add_checkpoint(tmp_path / "first", 4)
        update(url, tmp_path / "first")
        shutil.rmtree(tmp_path / "first" / "checkpoints" / "2")
        update(url, tmp_path / "first")
        with mirrored(url, tmp_path / "second"):
            assert [path.name for path in (tmp_path / "second" / "checkpoints").iterdir()] == ["4"]
        assert (tmp_path / "second" / "checkpoints" / "4" / "state" / "data").read_bytes() == b"arrays"
    finally:
        server.stop()
