"""Training and loading from Python: the same runs and the same one-line errors as on the command line."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

import flsl_jax
from flsl_jax.config import parse_config
from tests.tiny import get_config

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests" / "tiny.py")


@pytest.fixture
def asked(monkeypatch):
    """What the loop is asked to train, instead of training it; `make package` trains."""
    calls = []
    monkeypatch.setattr(
        "flsl_jax.loop.train", lambda config, *, workdir, allow_changes: calls.append((config, workdir))
    )
    return calls


def test_pretrain_trains_on_a_folder_by_a_config_and_settings(asked, tmp_path):
    flsl_jax.pretrain("photos", workdir=tmp_path, model="quickstart", epochs=2, settings={"optimizer.lr": 1, "seed": 5})
    values = flsl_jax.get_config("quickstart")
    values.update({"epochs": 2, "seed": 5, "optimizer": {"lr": 1.0}, "data": {"name": "folder", "root": "photos"}})
    values.evaluation.every_epochs = 0.0  # it is of scenes
    assert asked == [(parse_config(values.to_dict()), tmp_path)]


def test_epochs_are_passes_over_the_images_whatever_the_config_calls_an_epoch(asked, tmp_path):
    assert flsl_jax.get_config("photos").epoch_images > 0
    flsl_jax.pretrain("photos", workdir=tmp_path, model="photos", epochs=2)
    assert (asked[0][0].epochs, asked[0][0].epoch_images) == (2, 0)
    flsl_jax.pretrain("photos", workdir=tmp_path, model="photos")
    assert asked[1][0].epoch_images > 0


def test_without_settings_a_config_is_trained_as_it_is(asked, tmp_path):
    flsl_jax.pretrain(Path("photos"), workdir=str(tmp_path))
    values = flsl_jax.get_config("vits16")
    values.data.root = "photos"
    assert asked == [(parse_config(values.to_dict()), tmp_path)]


def test_pretrain_takes_several_folders_and_what_is_no_folder(asked, tmp_path):
    (tmp_path / "list.csv").touch()
    flsl_jax.pretrain([tmp_path, "b"], workdir=tmp_path)
    flsl_jax.pretrain(tmp_path / "list.csv", workdir=tmp_path)
    flsl_jax.pretrain([tmp_path / "list.csv", "b,c"], workdir=tmp_path)
    assert [(config.data.name, config.data.root) for config, _ in asked] == [
        ("folder", f"{tmp_path},b"),
        ("list", f"{tmp_path}/list.csv"),
        ("auto", f"['{tmp_path}/list.csv', 'b,c']"),
    ]


def test_train_takes_a_config_dict_a_mapping_and_a_checked_config(asked, tmp_path):
    for config in (get_config(), get_config().to_dict(), parse_config(get_config().to_dict())):
        flsl_jax.train(config, workdir=str(tmp_path))
    assert asked == [(parse_config(get_config().to_dict()), tmp_path)] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "vits61"}, 'there is no config "vits61"; did you mean "vits16"?'),
        ({"settings": {"optimiser.lr": 1e-3}}, 'unknown key config.optimiser; did you mean "optimizer"?'),
        ({"settings": {"optimizer.lrs": 1e-3}}, 'unknown key config.optimizer.lrs; did you mean "lr"?'),
        ({"settings": {"epochs.count": 3}}, "but config.epochs is a value"),
        ({"epochs": 0}, "config.epochs is 0; expected a number from 1 to 100000"),
        ({"settings": {"epochs": "ten"}}, "config.epochs is 'ten' (str); expected int"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_written(asked, tmp_path, arguments, message):
    with pytest.raises(flsl_jax.UserError) as refused:
        flsl_jax.pretrain("photos", workdir=tmp_path / "run", **({"model": TINY} | arguments))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not asked


def test_a_worker_that_runs_the_script_again_ends_with_one_line(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit, match='below `if __name__ == "__main__":`'):
        flsl_jax.train(get_config(), workdir=tmp_path)
    assert not asked


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(flsl_jax.UserError, match="name a folder of images"):
        flsl_jax.pretrain(tmp_path / "none", workdir=tmp_path / "run", model=TINY)


def test_submodules_need_no_import_of_their_own_and_come_when_they_are_asked_for():
    code = (
        "import sys, flsl_jax; named = dir(flsl_jax); before = 'jax' in sys.modules; "
        "found = [flsl_jax.objective.mean_shift, flsl_jax.models.ViT, flsl_jax.config.parse_config, "
        "flsl_jax.schedules.Schedule, flsl_jax.errors.UserError]; "
        "print(before, all(map(callable, found)), {'objective', 'models', 'config', 'load'} <= set(named), "
        "hasattr(flsl_jax, 'nothing'), 'jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("False True True False True\n", "")
