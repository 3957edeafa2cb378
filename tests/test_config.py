"""The typed configuration, and the files under configs/ against it."""

import importlib

import pytest

from flsl_jax.config import Config, parse_config, parse_saved_config, to_dict
from flsl_jax.errors import UserError

CONFIGS = ("vits16", "vits8", "vitb16", "released_vits16", "quickstart", "tiny_imagenet")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file_is_valid_and_writes_every_key_out(name):
    values = importlib.import_module(f"configs.{name}").get_config().to_dict()

    def keys(tree, path=""):
        inner = [keys(value, f"{path}.{key}") for key, value in tree.items() if isinstance(value, dict)]
        return {f"{path}.{key}" for key in tree}.union(*inner)

    assert keys(values) == keys(to_dict(parse_config(values)))


def test_defaults_are_the_paper_recipe_of_vits16():
    values = importlib.import_module("configs.vits16").get_config().to_dict()
    assert parse_config(values) == Config()


def test_round_trip_through_a_plain_dictionary():
    config = parse_config({"seed": 3, "views": {"student_area": [0.3, 0.9]}, "model": {"drop_path": 0}})
    assert config.views.student_area == (0.3, 0.9)
    assert config.model.drop_path == 0.0
    assert parse_config(to_dict(config)) == config


def test_a_saved_config_of_another_version_is_read_but_for_what_it_alone_knows(caplog):
    saved = to_dict(parse_config({"seed": 3, "model": {"width": 64, "num_heads": 2}}))
    assert parse_saved_config(saved) == parse_config({"seed": 3, "model": {"width": 64, "num_heads": 2}})
    assert not caplog.messages
    saved["evaluation"]["discovery"]["method"], saved["gone"] = "lost", {"key": 1}
    del saved["optimizer"]["b1"]
    assert parse_saved_config(saved) == parse_config({"seed": 3, "model": {"width": 64, "num_heads": 2}})
    assert "config.evaluation.discovery.method, config.gone" in caplog.text
    saved["model"]["gated"] = True
    with pytest.raises(UserError, match=r"does not know config.model.gated; read it with the version that wrote it"):
        parse_saved_config(saved)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, 'unknown key config.modle; did you mean "model"?'),
        ({"model": {"patchsize": 8}}, 'unknown key config.model.patchsize; did you mean "patch_size"?'),
        ({"model": {"xyzzy": 8}}, "valid keys: depth"),
        ({"seed": 1.5}, r"config.seed is 1.5 \(float\); expected int"),
        ({"batch_size": True}, r"config.batch_size is True \(bool\); expected int"),
        ({"views": {"recipe": "papr"}}, 'config.views.recipe is .papr.; did you mean "paper"'),
        ({"views": {"base_area": (0.9, 0.5)}}, "config.views.base_area"),
        ({"views": {"base_area": (0.5, 1.5)}}, "at most 1"),
        ({"views": {"blur_probability": 1.2}}, "config.views.blur_probability is 1.2; expected a probability"),
        ({"views": {"size": 225}}, "config.views.size is 225; expected a multiple of config.model.patch_size = 16"),
        ({"views": {"size": 32}, "objective": {"query_window": 3}}, "gives 2×2 tokens"),
        ({"model": {"num_heads": 5}}, "config.model.width = 384 is not divisible"),
        ({"batch_size": 10, "compute": {"micro_batches": 4}}, "does not divide config.batch_size = 10"),
        ({"model": 3}, "config.model is 3; expected a group of keys"),
        ({"evaluation": {"bbox_kn": {}}}, 'did you mean "bbox_knn"?'),
        (
            {"evaluation": {"clustering": {"clusters": (27, -1)}}},
            r"config.evaluation.clustering.clusters is \(27, -1\)",
        ),
        ({"evaluation": {"clustering": {"clusters": ()}}}, r"expected numbers such as \(0, 27\)"),
        ({"evaluation": {"every_epochs": 1.0, "tasks": ("vidoe",)}}, 'did you mean "video"?'),
        ({"head": {"centroids": 0}}, "config.head.centroids is 0; expected at least 1"),
    ],
)
def test_bad_values_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        parse_config(values)
