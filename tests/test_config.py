"""The typed configuration, and the files under configs/ against it."""

import importlib
import json
from pathlib import Path

import pytest

from configs import evaluation, vits16
from flsl_jax.config import EvaluationConfig, parse, parse_config, parse_saved_config, to_dict
from flsl_jax.errors import UserError

CONFIGS = (
    "vits16",
    "ablation",
    "vits8",
    "vitb16",
    "released_vits16",
    "quickstart",
    "tiny_imagenet",
    "textures",
    "posttrain_vits14",
    "dino_vits16",
    "photos",
)


def changed(values, base=None):
    """The keys of `vits16` as a dictionary, those in a nested mapping changed."""
    merged = dict(vits16.get_config().to_dict() if base is None else base)
    for name, value in values.items():
        merged[name] = changed(value, merged[name]) if isinstance(value, dict) and name in merged else value
    return merged


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_is_valid_and_writes_every_key_out(name):
    values = importlib.import_module(f"configs.{name}").get_config().to_dict()

    def keys(tree, path=""):
        inner = [keys(value, f"{path}.{key}") for key, value in tree.items() if isinstance(value, dict)]
        return {f"{path}.{key}" for key in tree}.union(*inner)

    assert keys(values) == keys(to_dict(parse_config(values)))


def test_training_configs_measure_with_the_values_that_the_commands_have():
    values = evaluation.get_config().to_dict()
    assert parse(EvaluationConfig, values, path="config.evaluation") == EvaluationConfig()


def test_round_trip_through_a_plain_dictionary():
    config = parse_config(changed({"seed": 3, "views": {"student_area": [0.3, 0.9]}, "model": {"drop_path": 0}}))
    assert config.views.student_area == (0.3, 0.9)
    assert config.model.drop_path == 0.0
    assert parse_config(to_dict(config)) == config


def test_a_key_that_is_missing_is_named():
    values = changed({})
    del values["optimizer"]["b1"], values["optimizer"]["lr"]
    with pytest.raises(
        UserError, match=r"^config.optimizer lacks lr, b1; start from the config vits16, which has every key"
    ):
        parse_config(values)


def test_a_saved_config_of_another_version_is_read_but_for_what_it_alone_knows(caplog):
    config = parse_config(changed({"seed": 3, "model": {"width": 64, "num_heads": 2}}))
    saved = to_dict(config)
    assert parse_saved_config(saved) == config
    assert not caplog.messages
    saved["evaluation"]["discovery"]["method"], saved["gone"] = "lost", {"key": 1}
    assert parse_saved_config(saved) == config
    assert "config.evaluation.discovery.method, config.gone" in caplog.text
    saved["model"]["gated"] = True
    with pytest.raises(UserError, match=r"does not know config.model.gated; read it with the version that wrote it"):
        parse_saved_config(saved)


def test_the_config_of_a_run_of_the_first_version_is_read_as_it_was_meant(caplog):
    """A key without a default that is added to the configuration fails here: such runs could not be read any more."""
    saved = json.loads((Path(__file__).parent / "config" / "first_version.json").read_text())
    config = parse_saved_config(saved)
    assert (config.model.width, config.head.centroids, config.teacher.momentum.start) == (384, 4096, 0.996)
    assert (config.init_from, config.guide.model, config.head.warmup_epochs) == ("", "", 0.0)
    assert (config.objective.projected_weight.start, config.objective.projected_weight.end) == (0.0, 0.0)
    assert (config.model.init_std, config.views.blur_sigma) == (0.02, (0.1, 2.0))
    assert "config.evaluation.train, config.evaluation.val, config.evaluation.k" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, 'unknown key config.modle; did you mean "model"?'),
        ({"model": {"patchsize": 8}}, 'unknown key config.model.patchsize; did you mean "patch_size"?'),
        ({"model": {"xyzzy": 8}}, "valid keys: depth"),
        ({"seed": 1.5}, r"config.seed is 1.5 \(float\); expected int"),
        ({"batch_size": True}, r"config.batch_size is True \(bool\); expected int"),
        ({"optimizer": {"lr": 10**400}}, "config.optimizer.lr has more than 300 digits"),
        ({"views": {"recipe": "papr"}}, 'config.views.recipe is .papr.; did you mean "paper"'),
        ({"views": {"base_area": (0.9,)}}, r"config.views.base_area is \(0.9,\); expected 2 numbers"),
        (
            {"views": {"base_area": 0.9}},
            r"config.views.base_area is 0.9; expected several values, such as \(0.8, 1.0\)",
        ),
        ({"model": 3}, "config.model is 3; expected a group of keys"),
        ({"evaluation": {"bbox_kn": {}}}, 'did you mean "bbox_knn"?'),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        parse_config(changed(values))
