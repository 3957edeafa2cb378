"""Appendix A against plain loops, by hand, and layer by layer of a network."""

import numpy as np
import pytest
from flax import nnx
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from flsl_jax.config import MaskedSourceConfig, SeparabilityConfig
from flsl_jax.data.truth.masks import MaskedRecord, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import NetworkEncoder, PixelEncoder
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.evaluation.protocols.separability import evaluate, open_data, separability
from flsl_jax.models import Architecture, ViT
from tests.shared_data import shared_data

SCENES = SeparabilityConfig(data=MaskedSourceConfig(name="scenes", count=5, scene_size=32, split="val", ignore=()))


def _reference(tokens, labels):
    """Eq. 16 pair by pair."""
    z = [token / np.linalg.norm(token) for token in tokens]
    numbers = range(len(z))
    variances, separations, signs = [], [], []
    for i in numbers:
        inside = [j for j in numbers if labels[j] == labels[i]]
        nearest_outside = max(z[i] @ z[m] for m in numbers if labels[m] != labels[i])
        deltas = [z[i] @ z[j] - nearest_outside for j in inside]
        separations.append(np.mean(deltas))
        signs += [delta > 0 for delta in deltas]
        variances.append(np.sum((z[i] - np.mean([z[j] for j in inside], axis=0)) ** 2))
    return np.mean(variances), np.mean(separations), np.mean(signs)


@pytest.mark.parametrize("clusters", [2, 5])
def test_quantities_are_those_of_plain_loops(clusters):
    rng = np.random.default_rng(clusters)
    tokens, labels = rng.standard_normal((23, 4)), np.arange(23) % clusters
    found = separability(tokens, labels)
    expected = _reference(tokens, labels)
    np.testing.assert_allclose((found.variance, found.separation, found.separated), expected, atol=1e-12)


def test_quantities_by_hand():
    tokens = np.array([[2.0, 0], [1, 0], [0, 3]])
    found = separability(tokens, np.array([0, 0, 1]))
    # Inside: cosines of 1; outside: 0. No variance, every Δ is 1.
    assert (found.variance, found.separation, found.separated) == (0, 1, 1)
    found = separability(tokens, np.array([0, 1, 0]))
    # Tokens 1 and 3 are one cluster with a mean of (½, ½): each at a squared distance of ½; token 2 at 0.
    assert found.variance == pytest.approx(1 / 3)
    # Δ of token 1: with itself 1 - 1, with token 3 0 - 1; of token 2: 1 - 1; of token 3: 0 - 0 and 1 - 0.
    assert found.separation == pytest.approx((-0.5 + 0 + 0.5) / 3)
    assert found.separated == pytest.approx(1 / 5)


def test_rows_are_the_layers_of_the_network_and_indices_those_of_sklearn():
    model = ViT(Architecture(patch_size=8, width=16, depth=2, num_heads=2, grid=(4, 4), num_prefix=1), rngs=nnx.Rngs(0))
    encoder = NetworkEncoder(model, name="tiny")
    scores = evaluate(encoder, SCENES, batch_size=4)
    assert [row["layer"] for row in scores.rows] == ["patches", "block 1", "block 2", "tokens"]
    assert scores.metrics["separation"] == scores.rows[-1]["separation"]
    source, expected = open_masked(SCENES.data), []
    for index in range(5):
        record = source[index]
        pixels = record.mask.reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 64)
        labels = np.array([np.bincount(patch).argmax() for patch in pixels])
        if len(set(labels)) > 1:
            layer = np.asarray(encoder.layers(record.image[None]))[1, 0]
            clusters = mode_clusters(layer, inv_temp=1.0, similarity=0.8).reshape(-1)
            indices = normalized_mutual_info_score(labels, clusters), adjusted_rand_score(labels, clusters)
            expected.append((*_reference(layer.reshape(16, 16).astype(np.float64), labels), *indices))
    assert scores.metrics["images"] == len(expected) >= 3
    found = [scores.rows[1][key] for key in ("variance", "separation", "separated", "nmi", "ari")]
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-5)


def test_pixels_have_one_layer_and_batches_change_nothing():
    encoder = PixelEncoder(patch_size=8, image_size=32)
    scores = evaluate(encoder, SCENES, batch_size=2)
    assert [row["layer"] for row in scores.rows] == ["tokens"]
    assert evaluate(encoder, SCENES, batch_size=64, data=open_data(SCENES, patch_size=8, image_size=32)) == scores


class _Masked:
    name, class_names, num_classes, digest = "given", ("a", "b"), 2, ""

    def __init__(self, *masks):
        self._masks = masks

    def __len__(self):
        return len(self._masks)

    def __getitem__(self, index):
        image = np.full((16, 32, 3), 100, np.uint8)
        image[:, 16:] = 200
        return MaskedRecord(image=image, mask=self._masks[index], name=str(index))


def test_ignored_tokens_and_images_of_one_label_are_left_out():
    settings = SeparabilityConfig(size=16, fit="ratio")
    encoder = PixelEncoder(patch_size=8, image_size=16)
    halves = np.repeat(np.int32([0, 0, -1, -1, 1, 1, 1, 1]), 4)[None].repeat(16, axis=0)
    one = np.zeros((16, 32), np.int32)
    scores = evaluate(encoder, settings, batch_size=2, data=_Masked(halves, one, np.where(halves == 1, -1, halves)))
    assert scores.metrics["images"] == 1
    # The first patches' columns are dark, the last two bright, and the second ones' are ignored.
    assert scores.metrics["separation"] == pytest.approx(2)
    assert (scores.metrics["nmi"], scores.metrics["ari"], scores.metrics["variance"]) == (
        1,
        1,
        pytest.approx(0, abs=1e-9),
    )
    with pytest.raises(UserError, match="given: no image shows two labels"):
        evaluate(encoder, settings, batch_size=2, data=_Masked(one))


def test_the_patch_must_divide_the_size():
    with pytest.raises(UserError, match="expected a multiple of the model's patch of 7 px"):
        open_data(SCENES, patch_size=7, image_size=32)


def test_real_masks():
    root = shared_data("coco-mini")
    data = MaskedSourceConfig(
        images=str(root / "images" / "val"), masks=str(root / "semantic" / "val"), ignore=(0,), limit=4
    )
    scores = evaluate(PixelEncoder(patch_size=16, image_size=64), SeparabilityConfig(data=data), batch_size=4)
    assert scores.metrics["images"] >= 1
    assert 0 <= scores.metrics["nmi"] <= 1
