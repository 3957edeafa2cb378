"""The linear probe against scikit-learn, kept and recomputed features, and scores of known features."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import LinearProbeConfig
from flsl_jax.data.truth.mask_fit import MaskFit
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.linear_probe import TrainTokens, evaluate, train_layer
from tests.mask_encoders import PATCH, SIZE, NoiseEncoder, PerfectEncoder, best_miou, scenes, stripes

TRAIN, VAL = scenes(24, split="train"), scenes(8, split="val")
SETTINGS = LinearProbeConfig(train=TRAIN, val=VAL, size=SIZE, fit="square", epochs=40, batch_size=8, lr=0.03)
PIXELS = PixelEncoder(patch_size=PATCH, image_size=SIZE)


def _tokens(config, encoder=PIXELS, *, keep_gib: float = 1.0) -> TrainTokens:
    fit = MaskFit(how="square", size=SIZE, patch_size=PATCH)
    return TrainTokens(open_masked(config), encoder, fit, batch_size=8, keep_gib=keep_gib)


def test_features_that_tell_the_class_are_all_told_apart(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, train=stripes(tmp_path / "t", 4), val=stripes(tmp_path / "v", 3))
    layer = train_layer(_tokens(settings.train), settings)
    for record in (open_masked(settings.val)[index] for index in range(3)):
        classes = layer.logits(np.array(PIXELS.tokens(record.image[None])[0])).argmax(axis=-1)
        np.testing.assert_array_equal(classes, record.mask[::PATCH, ::PATCH])
    # Interpolated logits cross where their margins say, not quite at the border between two patches.
    assert evaluate(PIXELS, settings, batch_size=2).metrics["miou"] > 0.9


def test_features_that_are_the_masks_lose_only_edges_and_noise_scores_chance() -> None:
    perfect = evaluate(PerfectEncoder(TRAIN, VAL), SETTINGS, batch_size=8)
    assert perfect.metrics["miou"] > best_miou(VAL) - 0.06
    noise = evaluate(NoiseEncoder(), SETTINGS, batch_size=8)
    source = open_masked(VAL)
    background = np.mean([(source[i].mask == 0).mean() for i in range(8)])
    assert noise.metrics["aacc"] == pytest.approx(background, abs=0.02)
    assert noise.metrics["miou"] == pytest.approx(background / len(noise.rows), rel=0.2)


def test_the_layer_is_that_of_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    # Without weight decay and after long training, the layer minimises the cross-entropy: sklearn's without penalty.
    train = _tokens(scenes(12, split="train"), NoiseEncoder())
    settings = dataclasses.replace(SETTINGS, epochs=600, batch_size=12, lr=0.02, weight_decay=0.0)
    layer = train_layer(train, settings)
    examples = list(train.examples(np.arange(12)))
    tokens = np.concatenate([item.tokens.reshape(-1, 8) for item in examples]).astype(np.float64)
    shares = np.concatenate([item.target for item in examples]).astype(np.float64)
    # A soft label is every class at once, each weighing its share.
    rows, labels = np.nonzero(shares)
    model = linear_model.LogisticRegression(C=np.inf, max_iter=3000, tol=1e-9)
    model.fit(tokens[rows], labels, sample_weight=shares[rows, labels])
    expected = model.predict_proba(tokens)
    logits = layer.logits(tokens)[:, model.classes_]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_tokens_computed_anew_train_the_same_layer() -> None:
    kept, anew = _tokens(TRAIN), _tokens(TRAIN, keep_gib=1e-6)
    assert (kept.kept, anew.kept) == (True, False)
    settings = dataclasses.replace(SETTINGS, epochs=2, batch_size=5)
    layers = [train_layer(tokens, settings) for tokens in (kept, anew)]
    np.testing.assert_array_equal(layers[0].weights, layers[1].weights)
    np.testing.assert_array_equal(layers[0].bias, layers[1].bias)


def test_the_seed_alone_decides() -> None:
    tokens = _tokens(TRAIN)
    settings = dataclasses.replace(SETTINGS, epochs=2, batch_size=5)
    first, again, other = (train_layer(tokens, dataclasses.replace(settings, seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (first.weights != other.weights).any()


def test_moments_are_those_of_all_tokens() -> None:
    tokens = _tokens(TRAIN, keep_gib=1e-6)
    stacked = np.concatenate([item.tokens.reshape(64, -1) for item in tokens.examples(np.arange(24))]).astype(
        np.float64
    )
    assert tokens.num_tokens == len(stacked) == 24 * 64
    np.testing.assert_allclose(tokens.mean, stacked.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(tokens.deviation, stacked.std(axis=0), atol=1e-6)


def test_whole_images_are_judged_at_their_masks_own_size(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    config = stripes(tmp_path, 5)
    # Beside the 64×64 ones, one of 48×96.
    for folder in ("images", "masks"):
        image = Image.open(tmp_path / folder / "4.png").resize((96, 48), Image.Resampling.NEAREST)
        image.save(tmp_path / folder / "4.png")
    settings = dataclasses.replace(SETTINGS, train=config, val=config, fit="ratio", size=32, epochs=5)
    scores = evaluate(PIXELS, settings, batch_size=2)
    fit, source = MaskFit(how="ratio", size=32, patch_size=PATCH), open_masked(config)
    layer = train_layer(TrainTokens(source, PIXELS, fit, batch_size=2, keep_gib=1.0), settings)
    truth, predicted = [], []
    for record in (source[index] for index in range(5)):
        logits = layer.logits(np.array(PIXELS.tokens(fit.image(record.image)[None])[0]))
        whole = jax.image.resize(logits, (*record.mask.shape, source.num_classes), "bilinear")
        truth.append(record.mask.ravel())
        predicted.append(np.array(whole).argmax(axis=-1).ravel())
    truth, predicted = np.concatenate(truth), np.concatenate(predicted)
    assert scores.metrics["miou"] == pytest.approx(metrics.jaccard_score(truth, predicted, average="macro"))
    assert scores.metrics["aacc"] == pytest.approx((truth == predicted).mean())


def test_train_and_val_need_the_same_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set the same classes"):
        evaluate(PIXELS, dataclasses.replace(SETTINGS, val=stripes(tmp_path, 1)), batch_size=2)


def test_masks_that_ignore_everything_are_refused(tmp_path: Path) -> None:
    ignored = dataclasses.replace(stripes(tmp_path, 1), ignore=(0, 1, 2, 3))
    with pytest.raises(UserError, match="every pixel is ignored"):
        evaluate(NoiseEncoder(), dataclasses.replace(SETTINGS, train=ignored, val=ignored), batch_size=1)
