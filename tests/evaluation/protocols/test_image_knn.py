"""Image k-NN on mean tokens against scikit-learn, from folders of classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import ImageKnnConfig, SourceConfig
from flsl_jax.data.images.levels import Decoding
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder, as_trained
from flsl_jax.evaluation.protocols.image_knn import evaluate, open_data

PIXELS = PixelEncoder(patch_size=4, image_size=16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of noisy colours that overlap; val lacks the first one."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for split, count, first in (("train", 12, 0), ("val", 7, 1)):
        for number in range(first, 6):
            folder = root / split / f"class_{number}"
            folder.mkdir(parents=True)
            for index in range(count):
                colour = np.array([40 * number, 120, 200 - 30 * number]) + rng.normal(0, 25, 3)
                pixels = np.clip(colour + rng.normal(0, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def _settings(root: Path, **keys: int) -> ImageKnnConfig:
    train, val = (SourceConfig(root=str(root / split)) for split in ("train", "val"))
    return ImageKnnConfig(train=train, val=val, **keys)


def test_shares_are_those_of_sklearn(folders: Path) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    features, labels = {}, {}
    for name, stream in zip(("train", "val"), open_data(_settings(folders), patch_size=4, image_size=16), strict=True):
        images, numbers = (np.stack(arrays) for arrays in zip(*stream, strict=True))
        features[name] = np.asarray(PIXELS.tokens(images), np.float64).mean(axis=(1, 2))
        labels[name] = [stream.class_names[number] for number in numbers]
    classifier = neighbors.KNeighborsClassifier(
        n_neighbors=9, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(features["train"], labels["train"])
    shares = classifier.predict_proba(features["val"])
    five = classifier.classes_[np.argsort(-shares, axis=1, kind="stable")[:, :5]]
    truth = np.array(labels["val"])
    metrics = evaluate(PIXELS, _settings(folders, k=9), batch_size=8).metrics
    assert 0.2 < metrics["top1"] < 1
    assert metrics["top1"] == pytest.approx((classifier.predict(features["val"]) == truth).mean())
    assert metrics["top5"] == pytest.approx((five == truth[:, None]).any(axis=1).mean())


def test_images_without_classes_are_refused(folders: Path) -> None:
    flat = SourceConfig(root=str(folders / "train" / "class_0"))
    with pytest.raises(UserError, match="no image has a label"):
        open_data(ImageKnnConfig(train=flat, val=flat), patch_size=4, image_size=16)


def test_images_of_other_bands_are_read_as_the_model_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, level in (("dark", 1000), ("light", 3000)):
        (tmp_path / kind).mkdir()
        for number in range(3):
            values = rng.integers(level, level + 500, (16, 20, 5)).astype(np.uint16)
            np.save(tmp_path / kind / f"{number}.npy", values)
    source = SourceConfig(root=str(tmp_path))
    settings = ImageKnnConfig(train=source, val=source, k=1)
    encoder = PixelEncoder(patch_size=8, image_size=16, decoding=Decoding(channels=5, window=(1000.0, 4000.0)))
    train, _ = open_data(settings, **as_trained(encoder))
    image, _ = next(iter(train))
    assert image.shape == (16, 16, 5)
    # From 0 to 500 of 3000, as 255ths.
    assert image.max() <= 43
    assert evaluate(encoder, settings, batch_size=4).metrics["top1"] == 1.0
