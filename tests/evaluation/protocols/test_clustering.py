"""Unsupervised segmentation: matching, upsampling and scores of known features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.config import ClusteringConfig
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.clustering import ClusteringData, assign, cluster_confusion, collect, evaluate
from tests.mask_encoders import PATCH, SIZE, NoiseEncoder, PerfectEncoder, scenes, stripes

DATA = scenes(24, split="val")
SETTINGS = ClusteringConfig(data=DATA, size=SIZE, seeds=2)


@pytest.mark.parametrize(("upsample", "clusters"), [("bilinear", (0,)), ("nearest", (0, 8))])
def test_tokens_of_one_class_each_score_one(tmp_path: Path, upsample: str, clusters: tuple[int, ...]) -> None:
    """Eight clusters of four different tokens may split a class, whose parts lose edges to a neighbour where interpolated."""
    settings = dataclasses.replace(SETTINGS, data=stripes(tmp_path, 6), clusters=clusters, upsample=upsample)
    scores = evaluate(PixelEncoder(patch_size=PATCH, image_size=SIZE), settings, batch_size=4)
    # 0 clusters: as many as classes occur, of the 255 that the masks may have. More are matched by majority.
    assert next(iter(scores.metrics)) == "miou"
    for suffix in ("", "_k8")[: len(clusters)]:
        assert scores.metrics[f"miou{suffix}"] == 1
        assert scores.metrics[f"aacc{suffix}"] == 1
        assert scores.metrics[f"miou_std{suffix}"] == 0
    assert [(row["clusters"], row["seed"], row["matched"]) for row in scores.rows][:5] == [
        ("4", "0", "hungarian"), ("4", "0", "majority"), ("4", "1", "hungarian"), ("4", "1", "majority"),
        ("8", "0", "hungarian"),
    ][: 4 * len(clusters)]  # fmt: skip


def test_metrics_are_means_and_deviations_over_the_seeds() -> None:
    scores = evaluate(NoiseEncoder(), dataclasses.replace(SETTINGS, clusters=(3,), seeds=3), batch_size=8)
    runs = [row["miou"] for row in scores.rows if row["matched"] == "hungarian"]
    assert len(runs) == 3
    assert scores.metrics["miou"] == pytest.approx(np.mean(runs))
    assert scores.metrics["miou_std"] == pytest.approx(np.std(runs))


def test_features_that_are_the_masks_score_far_above_noise() -> None:
    settings = dataclasses.replace(SETTINGS, clusters=(25,), seeds=1)
    perfect = evaluate(PerfectEncoder(DATA, how="crop"), settings, batch_size=8)
    noise = evaluate(NoiseEncoder(), settings, batch_size=8)
    source = open_masked(DATA)
    background = np.mean([(source[i].mask == 0).mean() for i in range(24)])
    assert perfect.metrics["miou"] > 0.7
    # By majority every cluster of noise is called background.
    assert noise.metrics["aacc"] == pytest.approx(background, abs=0.01)
    assert noise.metrics["miou"] == pytest.approx(background / 9, abs=0.01)


def test_the_same_seed_gives_the_same_clusters() -> None:
    tokens = np.random.default_rng(0).standard_normal((500, 4), np.float32)
    np.testing.assert_array_equal(assign(tokens, clusters=5, seed=3), assign(tokens, clusters=5, seed=3))


def test_clusters_are_those_of_lloyd_where_they_are_plain() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    tokens = (np.eye(6)[rng.integers(0, 6, 600)] + 0.05 * rng.standard_normal((600, 6))).astype(np.float32)
    lloyd = cluster.KMeans(6, n_init=5, random_state=0).fit_predict(tokens)
    assert metrics.adjusted_rand_score(lloyd, assign(tokens, clusters=6, seed=0)) == 1


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_a_cluster_map_is_brought_to_the_size_of_its_mask(upsample: str) -> None:
    # Two images of different grids; the left column of patches is cluster 2, the others 0.
    data = ClusteringData(
        tokens=np.zeros((6, 1), np.float32),
        grids=np.array([[1, 2], [2, 2]]),
        masks=(np.full((4, 8), 1, np.int16), np.array([[0, 0, 0, -1]] * 4, np.int16)),
        num_classes=2,
    )
    confusion = cluster_confusion(data, np.array([2, 0, 2, 0, 2, 0]), clusters=3, upsample=upsample)
    np.testing.assert_array_equal(confusion, [[4, 0, 8], [16, 0, 16]])


def test_tokens_are_normalised_and_in_the_order_of_their_images() -> None:
    encoder = PixelEncoder(patch_size=PATCH, image_size=SIZE)
    data = collect(open_masked(DATA), encoder, SETTINGS, batch_size=7)
    assert data.tokens.shape == (24 * 64, 192)
    np.testing.assert_allclose(np.linalg.norm(data.tokens, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(data.masks[5], open_masked(DATA)[5].mask)


def test_more_clusters_than_tokens_and_masks_without_a_class_are_refused(tmp_path: Path) -> None:
    few = dataclasses.replace(SETTINGS, data=scenes(1, split="val"), clusters=(65,))
    with pytest.raises(UserError, match="65 clusters of 64 tokens"):
        evaluate(NoiseEncoder(), few, batch_size=1)
    ignored = dataclasses.replace(stripes(tmp_path, 1), ignore=(0, 1, 2, 3))
    with pytest.raises(UserError, match="every pixel is ignored"):
        evaluate(NoiseEncoder(), dataclasses.replace(SETTINGS, data=ignored), batch_size=1)
