"""What is read before the step is built: the prior over the centroids."""

import numpy as np
import pytest

from flsl_jax.errors import UserError
from flsl_jax.training.setup import read_prior


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
