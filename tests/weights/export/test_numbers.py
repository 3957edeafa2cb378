"""The numbers of a model card: the model's own apart from those of other steps, its start and raw pixels."""

import dataclasses
import json

import pytest

from flsl_jax.networks import architecture_of
from flsl_jax.weights.export.card import write_card
from flsl_jax.weights.export.numbers import read_numbers
from flsl_jax.weights.export.trained import Trained
from tests.tiny import tiny_config


@pytest.fixture(name="trained")
def _trained(tmp_path):
    workdir = tmp_path / "mine"
    lines = [
        {"step": 0, "knn_any": 0.25, "knn_pixels_any": 0.5, "discovery/corloc": 0.125},
        {"step": 4, "knn_any": 0.375},
        {"step": 8, "knn_any": 0.75, "discovery/corloc": 0.625},
        {"step": 12, "knn_any": 0.875},
    ]
    for place, source, step, value in (
        ("", "runs/mine", 8, 0.5),
        ("step_4", "runs/mine/checkpoints/4", 4, 0.4375),
        ("step_12", "runs/mine/checkpoints/12", 12, 0.99),
        ("untrained", "untrained:runs/mine", 0, 0.375),
        ("pixels", "pixels:runs/mine", None, 0.25),
        ("other", "runs/other", 8, 0.125),
    ):
        model = {"name": "another model" if place == "other" else "m", "source": source, "step": step}
        result = {"task": "video", "metrics": {"jf_mean": value, "f": None}, "model": model, "settings": {"top_k": 5}}
        (workdir / "results" / place).mkdir(parents=True, exist_ok=True)
        (workdir / "results" / place / "video.json").write_text(json.dumps(result))
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = tiny_config(init_from="/home/somebody/dino_small.pth")
    return Trained(
        architecture=architecture_of(config),
        backbones={"teacher": {}},
        heads={},
        source="mine",
        config=config,
        step=8,
        workdir=workdir,
    )


def test_the_model_has_a_column_of_its_own(trained):
    numbers = read_numbers(trained)
    assert numbers.own == "step 8"
    assert list(numbers.others) == ["step 4", "another model", "at the start", "raw pixels"]
    assert [(row.task, row.metric, dict(row.values)) for row in numbers.rows] == [
        ("bbox_knn, in training", "any", {"at the start": 0.25, "raw pixels": 0.5, "step 8": 0.75}),
        ("discovery, in training", "corloc", {"at the start": 0.125, "step 8": 0.625}),
        ("video", "jf_mean", {"step 8": 0.5, "another model": 0.125, "raw pixels": 0.25, "step 4": 0.4375,
                              "at the start": 0.375}),
    ]  # fmt: skip


def test_the_card_says_which_numbers_are_not_the_models_and_what_the_run_started_from(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("flsl_jax.weights.export.card._heading", lambda trained, metadata: "")
    card = write_card(
        trained, folder=tmp_path / "x.pth", output=tmp_path / "x.pth", snippet="", metadata={"mean": "", "std": ""},
        allowances=(), parities={},
    ).read_text()  # fmt: skip
    assert "To compare with, and not this model: step 4, another model, at the start, raw pixels." in card
    assert "| task | metric | **this model**, step 8 | step 4 | another model | at the start | raw pixels |" in card
    assert "| video | jf_mean | 0.5 | 0.4375 | 0.125 | 0.375 | 0.25 |" in card
    assert "| bbox_knn, in training | any | 0.75 | – | – | 0.25 | 0.5 |" in card
    assert "| started from | dino_small.pth |" in card
    assert "somebody" not in card


def test_results_of_a_run_that_was_renamed_are_its_own(trained):
    for path in (trained.workdir / "results").rglob("video.json"):
        values = json.loads(path.read_text())
        values["model"] |= {"in_workdir": values["model"]["source"] != "runs/other"}
        path.write_text(json.dumps(values))
    renamed = trained.workdir.rename(trained.workdir.with_name("renamed"))
    numbers = read_numbers(dataclasses.replace(trained, source="renamed", workdir=renamed))
    assert list(numbers.others) == ["step 4", "another model", "at the start", "raw pixels"]
    assert numbers.rows[-1].values["step 8"] == 0.5


@pytest.mark.parametrize(
    ("config", "words", "tags"),
    [
        (tiny_config(), "The teacher of a network trained with FLSL ([", "[flsl, vision-transformer]"),
        (
            tiny_config(objective={"method": "dino", "targets": "centering"}, views={"recipe": "multicrop"}),
            "The teacher of a network trained with DINO's objective ([",
            "[dino, vision-transformer]",
        ),
        (None, "The backbone of the weight file mine, converted by flsl_jax", "[vision-transformer]"),
    ],
)
def test_the_card_names_the_method_that_it_was_trained_with(trained, tmp_path, config, words, tags):
    changed = dataclasses.replace(trained, config=config, workdir=None)
    output = tmp_path / "x.pth"
    metadata = {"mean": "", "std": "", "target": "timm"}
    card = write_card(
        changed, folder=output, output=output, snippet="", metadata=metadata, allowances=(), parities={}
    ).read_text()
    assert words in card
    assert f"tags: {tags}" in card
    assert "trained with" in words or "FLSL" not in card
    assert "height and width multiples of 8" in card
