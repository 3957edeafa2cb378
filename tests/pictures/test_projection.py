"""The picture of tokens."""

import numpy as np
import pytest

from flsl_jax.pictures.projection import pca_rgb

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def clustered_tokens(rng, centres):
    """Two images of 4×4 tokens, left half near the first centre, right half near the second."""
    labels = np.broadcast_to(np.arange(4) // 2, (2, 4, 4))
    return centres[labels] + 0.01 * rng.standard_normal((2, 4, 4, centres.shape[-1])), labels


def test_equal_tokens_get_equal_colours_and_clusters_get_far_ones():
    rng = np.random.default_rng(0)
    tokens, labels = clustered_tokens(rng, rng.standard_normal((2, 16)))
    colours = pca_rgb(tokens)
    assert colours.shape == (2, 4, 4, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    first = colours[..., 0]  # the first component is what separates the clusters
    assert abs(first[labels == 0].mean() - first[labels == 1].mean()) > 0.9
    np.testing.assert_array_equal(
        pca_rgb(np.concatenate([tokens, tokens]))[:2], pca_rgb(np.concatenate([tokens, tokens]))[2:]
    )


def test_colours_do_not_depend_on_scale_or_offset():
    rng = np.random.default_rng(1)
    tokens = rng.standard_normal((2, 3, 3, 8))
    np.testing.assert_allclose(pca_rgb(3 * tokens + 5), pca_rgb(tokens), atol=1e-9)
