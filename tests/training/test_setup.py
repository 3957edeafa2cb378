"""What is read before the step is built, the prior over the centroids, and what is said before the first step."""

import numpy as np
import pytest

from flsl_jax import parallel
from flsl_jax.errors import UserError
from flsl_jax.training.setup import build_training, describe, read_prior
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
