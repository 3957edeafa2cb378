"""Clusters as colours: at most seven groups of them, no part without a colour, and merged ones paler."""

import numpy as np

from flsl_jax.pictures.clusters import merged_clusters, overlaid_clusters
from flsl_jax.pictures.panels import OKABE_ITO


def angles(degrees):
    """Tokens [h w 2] of any length that point this way."""
    radians = np.deg2rad(np.asarray(degrees, np.float32))
    return 3 * np.stack([np.cos(radians), np.sin(radians)], axis=-1)


def test_the_smallest_cluster_joins_the_one_that_is_most_alike():
    clusters = np.int32([[0, 0, 0, 1, 1], [0, 2, 2, 3, 4]])
    tokens = angles([[0, 0, 0, 90, 90], [0, 40, 40, 80, 50]])
    np.testing.assert_array_equal(merged_clusters(clusters, tokens, most=5), clusters)
    # 50° joins 40°, then 80° joins 90°: two groups of three, of which the one with the larger first cluster comes first.
    np.testing.assert_array_equal(merged_clusters(clusters, tokens, most=3), [[0, 0, 0, 1, 1], [0, 2, 2, 1, 2]])
    assert len(np.unique(merged_clusters(clusters, tokens, most=1))) == 1


def test_groups_are_numbered_by_their_size():
    clusters = np.int32([[0, 0, 0, 1, 1, 2, 3]])
    tokens = angles([[0, 0, 0, 90, 90, 91, 92]])
    np.testing.assert_array_equal(merged_clusters(clusters, tokens, most=2), [[1, 1, 1, 0, 0, 0, 0]])


def test_no_part_is_grey_and_what_was_merged_is_pale():
    clusters = np.arange(16, dtype=np.int32).reshape(4, 4)
    tokens = np.random.default_rng(0).standard_normal((4, 4, 8)).astype(np.float32)
    panel = overlaid_clusters(np.full((64, 64, 3), 128, np.uint8), clusters, tokens)
    assert panel.note == "16 clusters, 56% pale"
    assert [color for color, _ in panel.legend] == list(OKABE_ITO)
    centres = panel.colours[8::16, 8::16].reshape(-1, 3).astype(int)
    spread = np.ptp(centres, axis=1)
    assert spread.min() > 15
    groups = merged_clusters(clusters, tokens, most=7).reshape(-1)
    for group in range(7):
        members = np.flatnonzero(groups == group)
        assert spread[members[0]] == spread[members].max()
        assert all(spread[members[0]] > 1.5 * spread[other] for other in members[1:])


def test_few_clusters_are_themselves():
    panel = overlaid_clusters(
        np.zeros((16, 16, 3), np.uint8), np.zeros((2, 2), np.int32), np.ones((2, 2, 3), np.float32)
    )
    assert (panel.legend, panel.note) == (((OKABE_ITO[0], "100%"),), "1 cluster")


def test_a_small_cluster_is_in_the_legend_too():
    clusters = np.zeros((20, 20), np.int32)
    clusters[0, 0] = 1
    tokens = np.ones((20, 20, 3), np.float32)
    tokens[0, 0] = (1, -1, 0)
    panel = overlaid_clusters(np.zeros((40, 40, 3), np.uint8), clusters, tokens)
    assert (panel.legend, panel.note) == (((OKABE_ITO[0], ">99%"), (OKABE_ITO[1], "<1%")), "2 clusters")
