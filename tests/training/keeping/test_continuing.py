"""What a continued run may change: what is refused by name, what is said, and what `config.json` then holds."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax import parallel
from flsl_jax.config import to_dict
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.training.keeping.continuing import check_same_data, continue_with, describe_run, last_step
from flsl_jax.workdir import read_run_config
from tests.tiny import tiny_config


def photos(folder, count):
    folder.mkdir()
    for number in range(count):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(folder / f"{number:03d}.png")
    return {"name": "folder", "root": str(folder)}


def continued(old, new, *, allowed=(), workdir=Path("runs/x")):
    saved = describe_run(old, step=6, source=open_source(old.data), guide=None)
    return continue_with(new, saved=saved, source=open_source(new.data), allowed=allowed, workdir=workdir)


@pytest.mark.parametrize(
    ("changes", "shown", "names"),
    [
        ({"seed": 1}, "seed 0 → 1", "seed"),
        ({"batch_size": 4, "epochs": 5}, "batch_size 8 → 4; epochs 3 → 5", "batch_size,epochs"),
        ({"optimizer": {"lr": 0.1}}, "optimizer.lr 0.005 → 0.1", "optimizer.lr"),
        (
            {"head": {"hidden": 8}, "views": {"size": 40}},
            "head.hidden 32 → 8; views.size 32 → 40",
            "head.hidden,views.size",
        ),
        ({"data": {"count": 40}}, "data 32 images", "data"),
        ({"init_from": "a.pth"}, "init_from '' → a.pth", "init_from"),
    ],
)
def test_what_changes_the_numbers_is_refused_and_allowed_by_its_name(changes, shown, names):
    old, new = tiny_config(), tiny_config(**changes)
    with pytest.raises(UserError) as refused:
        continued(old, new)
    assert shown in str(refused.value)
    assert str(refused.value).endswith(f"--allow_changes={names}")
    assert "to step 6" in str(refused.value)
    assert "\n" not in str(refused.value)
    continued(old, new, allowed=names.split(","))
    continued(old, new, allowed=[name.split(".")[0] for name in names.split(",")])


def test_a_process_with_other_images_is_named(tmp_path, monkeypatch):
    config = tiny_config(data=photos(tmp_path / "photos", 3))
    source = open_source(config.data)
    check_same_data(source, config=config)
    monkeypatch.setattr(parallel, "of_every_process", lambda digest: [digest, digest, "4f8feed3" + digest[8:]])
    with pytest.raises(UserError) as refused:
        check_same_data(source, config=config)
    assert (
        f"process 2 has other images than process 0 in config.data (4f8feed3, not {source.digest[:8]}; here 3 images"
        in (str(refused.value))
    )


def test_the_names_to_allow_include_those_that_are_allowed_already():
    new = tiny_config(optimizer={"lr": 0.1}, seed=1)
    with pytest.raises(UserError, match=r"\(seed 0 → 1\).*--allow_changes=optimizer\.lr,seed$"):
        continued(tiny_config(), new, allowed=["optimizer.lr"])


def test_many_changes_are_refused_by_their_groups():
    new = tiny_config(seed=1, optimizer={"lr": 0.1, "b1": 0.5, "b2": 0.5}, head={"hidden": 8})
    with pytest.raises(UserError, match=r"and 1 more\); .*--allow_changes=seed,head,optimizer$"):
        continued(tiny_config(), new)


def test_what_leaves_the_numbers_is_said_and_goes_on(caplog):
    new = tiny_config(
        stop_at_step=9,
        compute={"micro_batches": 2},
        checkpoint={"keep": 9},
        logging={"every_steps": 7},
        evaluation={"batch_size": 3},
    )
    with caplog.at_level(logging.INFO, logger="flsl_jax"):
        continuation = continued(tiny_config(), new)
    assert "changed since then: stop_at_step 0 → 9; evaluation.batch_size" in caplog.text
    assert {change.key for change in continuation.changes} == {
        "stop_at_step",
        "compute.micro_batches",
        "checkpoint.keep",
        "logging.every_steps",
        "evaluation.batch_size",
    }


def test_images_decide_and_not_the_place_where_they_lie(tmp_path):
    old = tiny_config(data=photos(tmp_path / "old", 9))
    shutil.copytree(tmp_path / "old", tmp_path / "moved")
    moved = tiny_config(data={"name": "folder", "root": str(tmp_path / "moved")})
    assert [change.key for change in continued(old, moved).changes] == ["data.root"]
    (tmp_path / "moved" / "000.png").rename(tmp_path / "moved" / "other.png")
    with pytest.raises(UserError, match=r"data 9 images \(\w{8}\) → 9 images \(\w{8}\); data.root"):
        continued(old, moved)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimiser", "did you mean optimizer?"),
        ("lr", "did you mean optimizer.lr?"),
        ("width", "did you mean model.width?"),
        ("zzz", "docs/config.md lists its keys"),
    ],
)
def test_a_name_in_allow_changes_that_is_none_is_refused(name, meant):
    with pytest.raises(UserError, match=f"--allow_changes names '{name}', which the config does not have; ") as refused:
        continued(tiny_config(), tiny_config(), allowed=[name])
    assert str(refused.value).endswith(meant)


def test_a_checkpoint_of_an_earlier_version_is_compared_by_its_keys():
    saved = {"config": to_dict(tiny_config()), "step": 6, "guide": None}
    del saved["config"]["epoch_images"]
    source = open_source(tiny_config().data)
    common = {"saved": saved, "source": source, "workdir": Path("runs/x")}
    assert continue_with(tiny_config(), allowed=(), **common).changes == ()
    with pytest.raises(UserError, match=r"data.count 32 → 40\)"):
        continue_with(tiny_config(data={"count": 40}), allowed=(), **common)


def test_another_start_is_passed_over_where_it_is_allowed(caplog):
    continuation = continued(tiny_config(), tiny_config(init_from="a.pth"), allowed=["init_from"])
    assert continuation.config.init_from == ""
    assert continuation.changes == ()
    assert "config.init_from is passed over: this run started from random weights" in caplog.text


def test_config_json_keeps_how_the_run_began_and_adds_what_changed(tmp_path):
    train(tiny_config(stop_at_step=1), workdir=tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(UserError, match="optimizer"):
        train(tiny_config(stop_at_step=2, optimizer={"lr": 0.1}), workdir=tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == written
    train(tiny_config(stop_at_step=2, optimizer={"lr": 0.1}), workdir=tmp_path, allow_changes=["optimizer"])
    train(tiny_config(stop_at_step=3, optimizer={"lr": 0.1}), workdir=tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert values.pop("changes") == [
        {"step": 1, "stop_at_step": 2, "optimizer.lr": 0.1},
        {"step": 2, "stop_at_step": 3},
    ]
    assert values == written
    assert read_run_config(tmp_path) == tiny_config(stop_at_step=3, optimizer={"lr": 0.1})
    assert read_run_config(tmp_path, at_start=True) == tiny_config(stop_at_step=1)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(6, "raise config.stop_at_step to go on"), (0, "a larger config.epochs with --allow_changes=epochs goes on")],
)
def test_a_run_that_is_at_its_end_says_how_it_goes_on(caplog, stop, expected):
    config = tiny_config(stop_at_step=stop)
    with caplog.at_level(logging.INFO, logger="flsl_jax"):
        end = last_step(config, total_steps=12, begun=6, workdir=Path("runs/x"))
        assert end == (6 if stop else 12)
        assert ("no step is left" in caplog.text) == (stop == 6)
        last_step(config, total_steps=6 if not stop else 12, begun=6, workdir=Path("runs/x"))
    assert f"no step is left: the run is at step 6, where it ends; {expected}" in caplog.text


def test_a_run_that_is_past_its_end_says_so(tmp_path):
    train(tiny_config(stop_at_step=3), workdir=tmp_path)
    with pytest.raises(UserError, match=r"is at step 3, but config.stop_at_step = 2 ends it at step 2"):
        train(tiny_config(stop_at_step=2), workdir=tmp_path)
    with pytest.raises(UserError, match=r"is at step 3, but config.epochs = 1 ends it at step 2"):
        train(tiny_config(epochs=1, data={"count": 16}), workdir=tmp_path, allow_changes=["epochs", "data"])
