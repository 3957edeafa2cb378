"""Every array of a shard against the encoder on each image by itself, and by hand on raw pixels."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from flsl_jax.embedding.images import open_images
from flsl_jax.embedding.settings import EmbedSettings
from flsl_jax.embedding.shards import embed_shard
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import NetworkEncoder, PixelEncoder
from flsl_jax.evaluation.mode_clusters import mode_clusters
from flsl_jax.features import as_backbone, preprocess
from flsl_jax.models import Architecture, ViT

ARCHITECTURE = Architecture(patch_size=8, width=16, depth=2, num_heads=2, grid=(3, 3))
NORMAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
MODEL = as_backbone(ViT(ARCHITECTURE, rngs=nnx.Rngs(0)), **NORMAL, inv_temp=0.5)
ENCODER = NetworkEncoder(MODEL, name="model", **NORMAL, inv_temp=0.5)
ALL = EmbedSettings(features=("mean", "patch", "mode", "cluster"))
SIZES = ((24, 24), (30, 40), (24, 29), (60, 24), (24, 24), (48, 50))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of several shapes, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "3b.png").write_bytes(b"no image")
    return folder


def embedded(folder, settings, encoder=ENCODER, **options):
    source = open_images(str(folder), limit=0, scene_size=16)
    steps = []
    shard = embed_shard(
        encoder, source, range(len(source)), settings, batch_size=16, advance=lambda: steps.append(1), **options
    )
    assert len(steps) == len(source)
    return shard


@pytest.mark.parametrize("crop", [False, True])
def test_every_feature_is_that_of_the_image_by_itself(folder, crop):
    settings = EmbedSettings(features=ALL.features, crop=crop)
    shard = embedded(folder, settings)
    assert list(shard.images["name"]) == [f"{number}.png" for number in range(6)]
    assert [*zip(shard.images["height"], shard.images["width"])] == list(SIZES)
    assert [name for name, _ in shard.left_out] == [f"record 4 of {folder} (3b.png)"]
    for number in range(6):
        images = preprocess(folder / f"{number}.png", MODEL, crop=crop)
        tokens = np.asarray(MODEL(images))[0]
        own, inner = shard.patches["image"] == number, shard.clusters["image"] == number
        grid = (shard.images["rows"][number], shard.images["columns"][number])
        assert grid == tokens.shape[:2]
        np.testing.assert_allclose(shard.patches["patch"][own], tokens.reshape(-1, 16), atol=1e-5)
        np.testing.assert_allclose(shard.patches["mode"][own], MODEL.modes(images)[0].reshape(-1, 16), atol=1e-5)
        assert [*zip(shard.patches["row"][own], shard.patches["column"][own])] == list(np.ndindex(*grid))
        numbers = shard.patches["cluster"][own]
        np.testing.assert_array_equal(numbers, mode_clusters(tokens, inv_temp=1.0, similarity=0.8).reshape(-1))
        np.testing.assert_array_equal(shard.clusters["patches"][inner], np.bincount(numbers))
        np.testing.assert_array_equal(shard.clusters["cluster"][inner], np.arange(numbers.max() + 1))
        boxes, around = shard.patches["box"][own], shard.clusters["box"][inner]
        for cluster in range(numbers.max() + 1):
            np.testing.assert_array_equal(around[cluster, :2], boxes[numbers == cluster, :2].min(axis=0))
            np.testing.assert_array_equal(around[cluster, 2:], boxes[numbers == cluster, 2:].max(axis=0))


def test_means_are_weighted_by_how_much_of_a_patch_is_image(tmp_path):
    """Raw pixels: a grey image of 8 × 12 has one whole patch and one that is half padding, which counts half."""
    pixels = np.full((8, 12, 3), 255, np.uint8)
    pixels[:, 8:] = 0
    Image.fromarray(pixels).save(tmp_path / "image.png")
    shard = embedded(tmp_path, ALL, PixelEncoder(patch_size=8, image_size=8))
    whole = np.full(3 * 64, 0.5)
    half = np.where(np.tile(np.arange(8) < 4, 8).repeat(3), -0.5, 0.0)
    np.testing.assert_allclose(shard.patches["patch"], [whole, half], atol=1e-6)
    np.testing.assert_allclose(shard.images["mean"], [(whole + half / 2) / 1.5], atol=1e-6)
    np.testing.assert_array_equal(shard.patches["box"], [[0, 0, 8, 8], [8, 0, 12, 8]])


def test_what_is_not_asked_for_is_absent_and_vectors_have_the_dtype(folder):
    shard = embedded(folder, EmbedSettings(features=("mean",), dtype="float16"))
    assert list(shard.tables) == ["images"]
    assert shard.images["mean"].dtype == np.float16
    shard = embedded(folder, EmbedSettings(features=("mode",)))
    assert "mean" not in shard.images
    assert list(shard.patches) == ["image", "row", "column", "box", "mode"]


def test_a_shard_of_damaged_images_alone_is_empty(tmp_path):
    (tmp_path / "image.png").write_bytes(b"")
    shard = embedded(tmp_path, ALL)
    assert shard.tables == {}
    assert len(shard.left_out) == 1


def test_images_come_from_folders_files_lists_and_scenes(folder, tmp_path):
    assert len(open_images(str(folder), limit=2, scene_size=16)) == 2
    (tmp_path / "list.txt").write_text(f"{folder}/2.png\n\n{folder}/0.png\n")
    listed = open_images(str(tmp_path / "list.txt"), limit=0, scene_size=16)
    assert [listed[number].name for number in range(2)] == [f"{folder}/2.png", f"{folder}/0.png"]
    assert open_images(str(folder / "1.png"), limit=0, scene_size=16)[0].name == "1.png"
    assert open_images("scenes:textures", limit=3, scene_size=16)[0].image.shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", r"--images=nowhere: nowhere cannot be read \(No such file"),
        ("scenes:dots", "there are scenes:hues"),
        ("a.odt", "is no image by its name"),
        ("b.txt", "lists no image"),
    ],
)
def test_what_is_no_images_is_one_line(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.odt").touch()
    (tmp_path / "b.txt").touch()
    with pytest.raises(UserError, match=message):
        open_images(spec, limit=0, scene_size=16)
