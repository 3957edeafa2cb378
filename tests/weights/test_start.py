"""What a run started from: kept bit by bit, whatever becomes of its source; read again for a run that kept no copy."""

import json
import logging
import shutil

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.config import to_dict
from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.loop import train
from flsl_jax.training.setup import build_training
from flsl_jax.training.validation import draw_tokens
from flsl_jax.weights.start import START_FILE, read_start, write_start
from tests.tiny import tiny_config
from tests.weights.test_initial import random_backbone, run_model, save

IMAGES = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)


def test_untrained_is_what_the_run_started_from_when_its_file_is_gone(tmp_path, monkeypatch, caplog):
    architecture, params = random_backbone()
    source, workdir = tmp_path / "x.safetensors", tmp_path / "run"
    config = tiny_config(init_from=save(source, architecture, params), stop_at_step=1)
    drawn = {}
    monkeypatch.setattr("flsl_jax.training.validation.save_features", lambda images, tokens, path: drawn.update(tokens))
    train(config, workdir=workdir)
    source.unlink()
    chex.assert_trees_all_equal(read_start(config, workdir=workdir), params)
    start = open_model(f"untrained:{workdir}")
    assert (start.step, start.encoder.name) == (0, f"{workdir}, at its start")
    normalised = (IMAGES / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    expected = run_model(architecture, params, jnp.asarray(normalised, jnp.float32))
    np.testing.assert_allclose(start.encoder.tokens(IMAGES), expected, atol=1e-4)
    assert list(drawn) == ["at the start", "trained"]
    assert np.linalg.norm(drawn["trained"] - drawn["at the start"]) < 0.1 * np.linalg.norm(drawn["trained"])

    shutil.rmtree(workdir / START_FILE.parent)
    with pytest.raises(
        UserError, match=r"keeps no copy .*x\.safetensors does not exist.* Put it back where config\.init_from"
    ):
        open_model(f"untrained:{workdir}")
    caplog.set_level(logging.WARNING)
    drawn.clear()
    training = build_training(config, mesh=parallel.make_mesh(config.parallel), steps_per_epoch=4)
    draw_tokens(training, training.init().teacher, IMAGES, workdir)
    assert list(drawn) == ["trained"]
    assert "clusters.png show the trained network alone" in caplog.text


def test_a_run_that_kept_no_copy_reads_its_source_again(tmp_path):
    architecture, params = random_backbone(layer_scale=True, grid=(6, 6))
    config = tiny_config(init_from=save(tmp_path / "x.safetensors", architecture, params))
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    again = read_start(config, workdir=tmp_path)
    assert again["pos_embed"].shape == (4, 4, 32)
    assert open_model(f"untrained:{tmp_path}").encoder.name.endswith("at its start")


def test_a_start_from_random_values_keeps_nothing(tmp_path):
    path = tmp_path / START_FILE
    path.parent.mkdir()
    path.write_bytes(b"of an earlier start")
    with pytest.raises(UserError, match=r"backbone\.safetensors is damaged"):
        read_start(tiny_config(init_from="x"), workdir=tmp_path)
    write_start(None, tiny_config(), tmp_path)
    assert not path.exists()
    assert read_start(tiny_config(), workdir=tmp_path) is None
