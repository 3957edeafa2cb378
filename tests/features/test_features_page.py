"""The code of docs/features.md runs from top to bottom, and the page lists every array."""

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from flsl_jax.embedding.files import arrays_of
from flsl_jax.embedding.images import open_images
from flsl_jax.embedding.run import embed
from flsl_jax.embedding.settings import FEATURES, EmbedSettings
from flsl_jax.embedding.shards import embed_shard
from flsl_jax.evaluation.open_model import open_model

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
SETTINGS = EmbedSettings(features=tuple(FEATURES))


def test_its_code_runs(tiny_run, monkeypatch, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos" / "a.jpg")
    rng = np.random.default_rng(0)
    for number in range(11):
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), np.uint8)).save(tmp_path / "photos" / f"{number}.jpg")
    monkeypatch.chdir(tmp_path)
    encoder = open_model("runs/mine").encoder
    embed(encoder, open_images("photos", limit=0, scene_size=32), tmp_path / "features", SETTINGS)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 5
    assert blocks[-1].startswith("import faiss")
    names = {}
    exec("\n".join(blocks if importlib.util.find_spec("faiss") else blocks[:-1]), names)
    assert names["tokens"].shape == (4, 6, 32)
    assert names["vectors"][0].shape == (32,)
    assert names["means"].shape == (12, 32)
    assert names["groups"].max() == 9
    if importlib.util.find_spec("faiss"):
        assert names["found"][0, 0] == 0  # a patch is the nearest one to itself
        np.testing.assert_allclose(names["scores"][0, 0], 1, rtol=1e-5)


def test_it_lists_every_array(tiny_run):
    source = open_images(str(tiny_run / "photo.jpg"), limit=0, scene_size=32)
    encoder = open_model(str(tiny_run / "runs" / "mine")).encoder
    shard = embed_shard(encoder, source, range(1), SETTINGS, batch_size=8, advance=lambda: None)
    rows = re.findall(r"^\| (`.*?) \| \[", PAGE, flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(arrays_of(shard))
