"""What is read before the step is built, the prior over the centroids, and what is said before the first step."""

import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.errors import UserError
from flsl_jax.training import setup
from flsl_jax.training.setup import build_training, describe, few_images, read_prior
from tests.tiny import tiny_config


def test_a_prior_is_read_and_made_to_sum_to_1(tmp_path):
    np.save(tmp_path / "prior.npy", np.array([0.5, 0.30001, 0.2], np.float64))
    assert read_prior(str(tmp_path / "prior.npy"), centroids=3).sum() == pytest.approx(1.0, abs=1e-7)
    assert read_prior("uniform", centroids=3) is None


@pytest.mark.parametrize(
    "values", [[0.5, 0.5], [0.5, 0.7, -0.2], [0.5, 0.5, 0.5], [np.nan, 0.5, 0.5]], ids=["shape", "sign", "sum", "NaN"]
)
def test_what_is_no_distribution_over_the_centroids_is_refused(tmp_path, values):
    np.save(tmp_path / "prior.npy", np.array(values))
    with pytest.raises(UserError, match=r"expected 3 .*none negative, that sum to 1"):
        read_prior(str(tmp_path / "prior.npy"), centroids=3)


def described(**settings):
    config = tiny_config(**settings)
    training = build_training(config, mesh=parallel.make_mesh(config.parallel), steps_per_epoch=4, guide=None)
    return describe(config, training, images=16).splitlines(), training.total_steps


def test_the_first_lines_say_how_the_work_is_spread_and_where_the_run_stops():
    lines, steps = described()
    assert lines[0].endswith(", float32")
    assert any(line.startswith(f"{steps} steps, 4 an epoch; ") for line in lines)
    lines, _ = described(parallel={"fsdp": 2}, compute={"micro_batches": 2}, stop_at_step=3)
    assert lines[0].endswith(", float32, parameters spread over 2 devices, the batch in 2 parts")
    assert any(line.startswith(f"{steps} steps, 4 an epoch, of which this run takes the first 3; ") for line in lines)


AUTO = {"dtype": "auto", "attention": "auto", "scan_blocks": "auto"}


@pytest.mark.parametrize(
    ("backend", "chosen"),
    [
        ("cpu", ("float32", "unroll", "xla")),
        ("tpu", ("bfloat16", "scan", "xla")),
        ("gpu", ("bfloat16", "unroll", "cudnn")),
    ],
)
def test_auto_is_what_suits_the_devices(monkeypatch, backend, chosen):
    monkeypatch.setattr(parallel, "backend_of", lambda mesh: backend)
    monkeypatch.setattr(setup, "cudnn_attends", lambda **shape: True)
    config = tiny_config(compute=AUTO)
    compute = setup.settled(config, mesh=parallel.make_mesh(config.parallel)).compute
    assert (compute.dtype, compute.scan_blocks, compute.attention) == chosen


def test_cudnns_attention_is_tried_at_every_size_of_view_and_left_where_one_fails(monkeypatch):
    tried = []

    def only_large(*, tokens, heads, channels):
        tried.append((tokens, heads, channels))
        return tokens > 4

    monkeypatch.setattr(parallel, "backend_of", lambda mesh: "gpu")
    monkeypatch.setattr(setup, "cudnn_attends", only_large)
    mesh = parallel.make_mesh(tiny_config().parallel)
    released = tiny_config(compute=AUTO, views={"recipe": "released"})
    assert setup.settled(released, mesh=mesh).compute.attention == "xla"
    assert tried == [(4, 2, 16)]
    assert setup.settled(tiny_config(compute=AUTO), mesh=mesh).compute.attention == "cudnn"
    assert tried[1:] == [(16, 2, 16)]


def test_what_the_config_names_is_not_tried(monkeypatch):
    monkeypatch.setattr(parallel, "backend_of", lambda mesh: "gpu")
    monkeypatch.setattr(setup, "cudnn_attends", lambda **shape: pytest.fail("tried"))
    for compute in ({"attention": "xla"}, {"attention": "cudnn", "dtype": "bfloat16"}, {"dtype": "float32"}):
        config = tiny_config(compute=AUTO | compute)
        attention = setup.settled(config, mesh=parallel.make_mesh(config.parallel)).compute.attention
        assert attention == compute.get("attention", "xla")


def test_few_images_are_said_with_what_helps():
    assert few_images(100_000) == []
    (anew,), (started,) = few_images(40), few_images(40, started=True)
    assert "40 images are few" in anew
    assert anew.endswith("start from trained weights by config.init_from")
    assert "init_from" not in started
