"""What becomes of a fine-tuning run whose images are not those that it began with, or are judged or read otherwise."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError
from flsl_jax.training.keeping.interrupt import Interrupt
from flsl_jax.transfer import continuing, training
from flsl_jax.transfer.continuing import Start, check_same_data, continue_with
from flsl_jax.transfer.judging.measurement import write_json
from flsl_jax.transfer.processes import start_fabric
from flsl_jax.transfer.training import open_data
from tests.transfer.test_fine_tuning import backbone_for, run, tiny
from tests.transfer.test_processes import SCENES
from tests.transfer.test_transfer_continuing import newest


def masked(folder, *, first=0, count=6):
    """Scenes as images with PNG masks in a folder, and the group of the config that names them."""
    scenes = Scenes(count=first + count, size=32)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        Image.fromarray(np.asarray(scenes[index].image)).save(folder / "images" / f"{index}.png")
        Image.fromarray(scenes.masks(index).classes).save(folder / "masks" / f"{index}.png")
    return {"name": "folder", "images": str(folder / "images"), "masks": str(folder / "masks")}


def on_files(train, val=None, **groups):
    return tiny(data={"train_masks": train, "val_masks": val or train}, **groups)


@pytest.fixture(scope="module")
def begun_on_files(tmp_path_factory):
    """A run on images in a folder that was measured at its second step and stopped after the third one."""
    folder = tmp_path_factory.mktemp("begun_on_files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interrupt, "requested", lambda self, step: step == 3)
        run(on_files(masked(folder / "first"), measure_every=2), folder / "run")
    return folder


@pytest.fixture
def place(begun_on_files, tmp_path):
    """A copy of that run beside its images."""
    return shutil.copytree(begun_on_files, tmp_path / "place")


def test_a_moved_folder_goes_on_and_other_images_are_refused_and_then_kept(place):
    folders = {name: place / "first" / name for name in ("images", "masks")}
    moved = on_files({"name": "folder"} | {name: str(folder) for name, folder in folders.items()})
    workdir = place / "run"
    before = json.loads((workdir / "model.json").read_text())
    assert before["data"]["train"] == before["data"]["val"]
    assert before["data"]["train"]["images"] == 6
    assert run(moved, workdir).finished
    assert json.loads((workdir / "model.json").read_text()) == before
    for folder in folders.values():
        (folder / "0.png").rename(folder / "new.png")
    shown = rf"data\.train_masks 6 images \({before['data']['train']['digest'][:8]}\) → 6 images \(\w{{8}}\); data\.val_masks 6"
    with pytest.raises(UserError, match=rf"{shown}.*--allow_changes=data\.train_masks,data\.val_masks$"):
        run(moved, workdir)
    run(moved, workdir, allow_changes=["data"])
    run(moved, workdir)
    after = json.loads((workdir / "model.json").read_text())
    assert after.pop("data")["train"] not in before.pop("data").values()
    assert after == before


def test_the_best_checkpoint_is_judged_anew_on_other_images(place):
    workdir, first = place / "run", masked(place / "first")
    state = newest(workdir)
    assert 0 <= state["best"] < 1
    torch.save(state | {"best": 0.99}, workdir / "checkpoints" / "newest.ckpt")
    moved = on_files(masked(place / "first"), measure_every=2)
    kept = shutil.copytree(workdir, place / "kept")
    assert run(moved, kept, allow_changes=["data"]).finished
    assert newest(kept)["best"] == 0.99
    other = on_files(first, masked(place / "other", first=6), measure_every=2)
    outcome = run(other, workdir, allow_changes=["data.val_masks"])
    assert newest(workdir)["best"] == outcome.metrics["miou"] < 0.99
    best = torch.load(workdir / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["step"] == 4


def test_a_finished_run_is_measured_again_on_other_images_alone(place, monkeypatch):
    workdir, first = place / "run", masked(place / "first")
    measured = []
    measure = training._Run.measure
    monkeypatch.setattr(training._Run, "measure", lambda self: measured.append(1) or measure(self))
    run(on_files(first), workdir)
    run(on_files(first), workdir)
    assert len(measured) == 1
    other = masked(place / "other", first=6)
    again = run(on_files(first, other), workdir, allow_changes=["data"])
    assert len(measured) == 2
    assert json.loads((workdir / "result.json").read_text())["metrics"] == again.metrics


def asked(config, workdir, *, allowed=()):
    """What `continue_with` says of a run whose images were not written down or are those of the config."""
    data = open_data(config)
    start = Start(backbone=backbone_for(config), train=data.train, val=data.val)
    return continue_with(config, start=start, checkpoint=workdir / "newest.ckpt", workdir=workdir, allowed=allowed)


@pytest.mark.parametrize("kind", ["semantic_fpn", "faster_rcnn"])
def test_images_are_compared_by_their_digests_and_those_of_an_earlier_version_by_their_keys(tmp_path, kind):
    config = tiny(kind)
    data = open_data(config)
    start = Start(backbone=backbone_for(config), train=data.train, val=data.val)
    torch.save({"step": 1}, tmp_path / "newest.ckpt")
    write_json(tmp_path / "config.json", dataclasses.asdict(config))
    masks = "_masks" if kind == "semantic_fpn" else ""
    used, unused = f"train{masks}", "train" if masks else "train_masks"
    for model, message in (
        (start.describe(), rf"data\.{used} 6 images \(\w{{8}}\) → 5 images \(\w{{8}}\); data\.{used}\.count 6 → 5\)"),
        ({}, rf"settings \(data\.{used}\.count 6 → 5\)"),
    ):
        write_json(tmp_path / "model.json", model)
        with pytest.raises(UserError, match=message):
            asked(tiny(kind, data={used: SCENES | {"count": 5}}), tmp_path)
        allowed = asked(tiny(kind, data={used: SCENES | {"count": 5}}), tmp_path, allowed=["data"])
        assert not allowed.same_numbers
        assert allowed.same_judge
        assert allowed.model["data"]["train"]["images"] == 5
        other = asked(tiny(kind, data={f"val{masks}": SCENES | {"split": "val"}}), tmp_path, allowed=["data"])
        assert not other.same_judge
        free = asked(tiny(kind, data={unused: SCENES | {"count": 5}, "workers": 3}), tmp_path)
        assert free.same_numbers
        assert {change.key for change in free.changes} == {f"data.{unused}.count", "data.workers"}
    limited = tiny(kind, data={used: SCENES | {"count": 9, "limit": 6}})
    with pytest.raises(UserError, match=rf"settings \(data\.{used}\.count 6 → 9; data\.{used}\.limit 0 → 6\)"):
        asked(limited, tmp_path)
    write_json(tmp_path / "model.json", start.describe())
    assert asked(limited, tmp_path).same_numbers


def test_equal_images_that_are_judged_or_read_otherwise_are_refused(tmp_path):
    config = tiny("faster_rcnn")
    data = open_data(config)
    torch.save({"step": 1}, tmp_path / "newest.ckpt")
    write_json(tmp_path / "config.json", dataclasses.asdict(config))
    start = Start(backbone=backbone_for(config), train=data.train, val=data.val)
    write_json(tmp_path / "model.json", start.describe())
    for name, key, value in (("val", "ignored_rule", "half"), ("train", "fill_ignored", True)):
        with pytest.raises(UserError, match=rf"settings \(data\.{name}\.{key} .*--allow_changes=data\.{name}\.{key}$"):
            asked(tiny("faster_rcnn", data={name: SCENES | {key: value}}), tmp_path)


def test_a_process_with_other_images_is_named(monkeypatch):
    config = tiny()
    data = open_data(config)
    start = Start(backbone=backbone_for(config), train=data.train, val=data.val)
    fabric = start_fabric(precision="32-true", batch_size=1)
    other = start.data | {"val": {"images": 7, "digest": "4f8feed3"}}
    monkeypatch.setattr(continuing, "gathered", lambda items, fabric: [*items, other])
    with pytest.raises(
        UserError, match=r"process 1 has other images than process 0 to measure on \(7 images \(4f8feed3\), not 6"
    ):
        check_same_data(start, fabric)
    monkeypatch.setattr(continuing, "gathered", lambda items, fabric: [*items, *items])
    check_same_data(start, fabric)
