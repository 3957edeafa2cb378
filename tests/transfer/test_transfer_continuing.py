"""What a continued fine-tuning run may change: what is refused by name, what is said, and what `config.json` then holds."""

import dataclasses
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.config.files import load_config
from flsl_jax.config.saved import CONFIG_FILE, write_first_config
from flsl_jax.errors import UserError
from flsl_jax.training.keeping.interrupt import Interrupt
from flsl_jax.transfer.config import parse_transfer_config, read_transfer_config
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.building import backbone_options, default_blocks
from flsl_jax.transfer.trained import load_trained
from flsl_jax.transfer.training import fine_tune
from flsl_jax.workdir import read_metrics
from tests.tiny import tiny_config
from tests.transfer import test_processes as processes
from tests.transfer.test_fine_tuning import backbone_for, run, tiny
from tests.transfer.tiny_backbones import tiny_loaded
from tests.weights.test_initial import random_backbone, save

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of four steps that was stopped after the second one."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Interrupt, "requested", lambda self, step: step == 2)
        assert run(tiny(), workdir).step == 2
    return workdir


@pytest.fixture
def workdir(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


def newest(workdir):
    return torch.load(workdir / "checkpoints" / "newest.ckpt", weights_only=True)


def files(workdir):
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "shown", "names"),
    [
        ({"seed": 1}, "seed 0 → 1", "seed"),
        ({"optimizer": {"lr": 0.01}}, "optimizer.lr 0.0003 → 0.01", "optimizer.lr"),
        ({"steps": 6, "batch_size": 3}, "batch_size 2 → 3; steps 4 → 6", "batch_size,steps"),
        ({"augment": {"flip": 0.0}, "seed": 1}, "seed 0 → 1; augment.flip 0.5 → 0.0", "seed,augment.flip"),
    ],
)
def test_what_changes_the_numbers_is_refused_and_allowed_by_its_name(workdir, changes, shown, names):
    before = files(workdir)
    with pytest.raises(UserError) as refused:
        run(tiny(**changes), workdir)
    assert f"was trained to step 2 with other settings ({shown}); " in str(refused.value)
    assert str(refused.value).endswith(f", or continue with the new settings by --allow_changes={names}")
    assert "\n" not in str(refused.value)
    assert files(workdir) == before
    groups = [name.split(".")[0] for name in names.split(",")]
    assert run(tiny(**changes), workdir, allow_changes=groups).finished


def test_names_that_are_allowed_already_are_named_again(workdir):
    with pytest.raises(UserError, match=r"\(seed 0 → 1\).*--allow_changes=optimizer\.lr,seed$"):
        run(tiny(optimizer={"lr": 0.01}, seed=1), workdir, allow_changes=["optimizer.lr"])


def test_what_leaves_the_numbers_is_said_and_goes_on(workdir, tmp_path, caplog):
    free = {"log_every": 3, "measure_every": 3, "paper": "a table"}
    free["network"] = {"kind": "semantic_fpn", "channels": 16, "checkpointing": True}
    with caplog.at_level(logging.INFO, logger="flsl_jax"):
        assert run(tiny(**free), workdir).finished
    assert "continuing from step 2 in" in caplog.text
    for said in ("network.checkpointing False → True", "measure_every 0 → 3", "log_every 1 → 3", "paper '' → a table"):
        assert said in caplog.text.split("changed since then: ")[1]
    run(tiny(), tmp_path / "whole")
    first, second = newest(tmp_path / "whole")["model"], newest(workdir)["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_allowed_weight_decay_acts_from_the_next_step_on(workdir, tmp_path, monkeypatch):
    """AdamW takes lr · decay · parameter away, besides what the gradients do, which are the same in both."""
    other, old = shutil.copytree(workdir, tmp_path / "other"), newest(workdir)["model"]
    monkeypatch.setattr(Interrupt, "requested", lambda self, step: step == 3)
    assert tiny().optimizer.weight_decay == 0.05
    run(tiny(), workdir)
    run(tiny(optimizer={"weight_decay": 20.05}), other, allow_changes=["optimizer.weight_decay"])
    lr = read_metrics(workdir / "metrics.jsonl")[-1]["lr"]
    first, second = newest(workdir), newest(other)
    assert {group["weight_decay"] for group in second["optimizer"]["param_groups"]} == {20.05}
    matrices = [name for name in old if old[name].ndim > 1]
    assert len(matrices) > 10
    for name in matrices:
        lost = first["model"][name] - second["model"][name]
        torch.testing.assert_close(lost, lr * 20 * old[name], rtol=1e-4, atol=1e-7)


def test_config_json_keeps_how_the_run_began_and_adds_what_changed(workdir, monkeypatch):
    written = json.loads((workdir / "config.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "requested", lambda self, step: step == 3)
        run(tiny(optimizer={"lr": 0.01}, log_every=2), workdir, allow_changes=["optimizer"])
    run(tiny(optimizer={"lr": 0.01}), workdir)
    values = json.loads((workdir / "config.json").read_text())
    assert values.pop("changes") == [
        {"step": 2, "optimizer.lr": 0.01, "log_every": 2},
        {"step": 3, "log_every": 1},
    ]
    assert values == written
    assert read_transfer_config(workdir / CONFIG_FILE) == load_trained(workdir).config == tiny(optimizer={"lr": 0.01})
    for name in (workdir, workdir / CONFIG_FILE):  # what --config=WORKDIR reads
        saved = load_config(str(name), read_saved=read_transfer_config)
        assert parse_transfer_config(saved.to_dict()) == tiny(optimizer={"lr": 0.01})


def test_the_settings_of_a_pretraining_run_are_no_config_of_a_detector(tmp_path):
    write_first_config(tiny_config(), tmp_path / CONFIG_FILE)
    with pytest.raises(UserError, match="unknown") as refused:
        load_config(str(tmp_path), read_saved=read_transfer_config)
    assert "\n" not in str(refused.value)


def test_a_finished_run_goes_on_longer_or_is_measured_again(workdir, caplog):
    first = run(tiny(), workdir)
    smaller = tiny(augment={"sizes": (16,)})
    with caplog.at_level(logging.INFO, logger="flsl_jax"):
        again = run(smaller, workdir, allow_changes=["augment"])
    assert (
        "the run is at step 4, where it ends; a larger config.steps with --allow_changes=steps goes on" in caplog.text
    )
    assert again.step == 4
    assert again.metrics != first.metrics
    assert json.loads((workdir / "result.json").read_text())["metrics"] == again.metrics
    assert run(tiny(augment={"sizes": (16,)}, steps=5), workdir, allow_changes=["steps"]).step == 5
    with pytest.raises(UserError, match=r"is at step 5, but config\.steps = 4 ends it at step 4: nothing is left"):
        run(smaller, workdir, allow_changes=["steps"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": {"kind": "semantic_fpn", "channels": 8}},
            r"newest\.ckpt does not fit .*channels 16 → 8\): .*shape",
        ),
        (
            {"network": {"kind": "faster_rcnn", "channels": 16}},
            r"begun with another backbone or other classes \(class_",
        ),
        ({"optimizer": {"decay_norms": False}}, r"decay_norms True → False\): .*different number of parameter groups"),
        ({"optimizer": {"name": "sgd"}}, r"another optimizer \(optimizer\.name adamw → sgd\), whose state"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_one_line_even_where_it_is_allowed(workdir, changes, message):
    before = files(workdir)
    with pytest.raises(UserError, match=message) as refused:
        run(tiny(**changes), workdir, allow_changes=["network", "optimizer"])
    assert "\n" not in str(refused.value)
    assert files(workdir) == before


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr", "did you mean optimizer.lr?"),
        ("optimiser", "did you mean optimizer?"),
        ("stop_at_step", "docs/transfer_config.md lists its keys"),
    ],
)
def test_a_name_in_allow_changes_that_is_none_is_refused_before_a_run_begins(tmp_path, name, meant):
    with pytest.raises(UserError, match=f"--allow_changes names '{name}', which the config does not have; ") as refused:
        run(tiny(), tmp_path / "run", allow_changes=[name])
    assert str(refused.value).endswith(meant)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_checkpoint_is_one_line(workdir, damage):
    place = workdir / "checkpoints" / "newest.ckpt"
    place.write_bytes(place.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(UserError, match=r"newest\.ckpt cannot be read \(.*\); put a whole copy there") as refused:
        run(tiny(), workdir)
    assert "\n" not in str(refused.value)


def other_backbone(config, *, source):
    """The size of `backbone_for`, with other weights."""
    loaded = tiny_loaded(patch_size=8, width=32, depth=2, mlp_ratio=4, seed=1)
    options, blocks = backbone_options(config.network), default_blocks(config.network, depth=2)
    return dataclasses.replace(torch_backbone(loaded, options=options, blocks=blocks), source=source)


def test_another_backbone_is_refused_and_passed_over_where_it_is_allowed(workdir, tmp_path, caplog):
    whole, model = shutil.copytree(workdir, tmp_path / "whole"), (workdir / "model.json").read_text()
    config, before = tiny(), files(workdir)
    other = other_backbone(config, source="runs/other")
    assert other.digest != backbone_for(config).digest
    with pytest.raises(UserError, match=r"\(backbone '' → runs/other\); .*--allow_changes=backbone$"):
        fine_tune(config, backbone=other, workdir=workdir)
    assert "passed over" not in caplog.text
    assert files(workdir) == before
    assert fine_tune(config, backbone=other, workdir=workdir, allow_changes=["backbone"]).finished
    assert "--backbone=runs/other is passed over: this run started from" in caplog.text
    assert (workdir / "model.json").read_text() == model
    run(config, whole)
    first, second = newest(whole)["model"], newest(workdir)["model"]
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_weights_of_the_same_name_and_the_same_weights_of_another_go_on(workdir, caplog):
    config = tiny()
    assert fine_tune(config, backbone=other_backbone(config, source=""), workdir=workdir).finished
    assert "is passed over: this run started from other weights of that name" in caplog.text
    caplog.clear()
    moved = dataclasses.replace(backbone_for(config), source="runs/moved")
    assert fine_tune(config, backbone=moved, workdir=workdir).finished
    assert "passed over" not in caplog.text


def test_a_run_that_has_not_written_its_backbone_down_goes_on_with_any(workdir, caplog):
    model = json.loads((workdir / "model.json").read_text())
    assert {"backbone", "backbone_source"} < model.keys()
    assert model.pop("backbone_digest") == backbone_for(tiny()).digest
    (workdir / "model.json").write_text(json.dumps(model))
    other = other_backbone(tiny(), source="runs/other")
    assert fine_tune(tiny(), backbone=other, workdir=workdir).finished
    assert "passed over" not in caplog.text


def test_the_command_names_the_backbone_and_allows_what_it_is_told(tmp_path):
    architecture, params = random_backbone()
    first = save(tmp_path / "first.safetensors", architecture, params)
    second = save(tmp_path / "second.safetensors", architecture, jax.tree.map(lambda leaf: 2 * leaf, params))

    def command(backbone, *more, steps):
        torchrun = processes.command(backbone, tmp_path / "run", steps=steps)
        alone = torchrun[torchrun.index("tests.transfer.command") - 1 :]
        ended = subprocess.run([sys.executable, *alone, *more], capture_output=True, text=True, timeout=300, cwd=ROOT)
        return ended.returncode, ended.stderr

    code, said = command(first, steps=1)
    assert code == 0, said
    assert json.loads((tmp_path / "run" / "model.json").read_text())["backbone_source"] == first
    code, said = command(second, "--allow_changes=config.steps,backbone", steps=2)
    assert code == 0, said
    assert f"--backbone={second} is passed over: this run started from {first}" in said
    assert "changed since then: steps 1 → 2" in said
    assert newest(tmp_path / "run")["step"] == 2
