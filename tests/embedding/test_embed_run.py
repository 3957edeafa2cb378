"""A run of several shards: finished, continued, shared by parts, and refused for what is not the same."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from flsl_jax.embedding import run
from flsl_jax.embedding.images import open_images
from flsl_jax.embedding.run import MANIFEST, embed
from flsl_jax.embedding.settings import EmbedSettings
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import PixelEncoder

SETTINGS = EmbedSettings(features=("mean", "patch"), shard_images=2)
ENCODER = PixelEncoder(patch_size=4, image_size=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 256, (8, 8 + number, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "8.png").write_bytes(b"damaged")
    return open_images(str(folder), limit=0, scene_size=8)


def contents(folder):
    """Files and their bytes; zip files hold times, so that of .npz the arrays count."""
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: arrays[name].tobytes() for name in arrays}
        else:
            found[path.name] = path.read_bytes()
    return found


def test_all_images_are_written_and_described(source, tmp_path):
    outcome = embed(ENCODER, source, tmp_path / "out", SETTINGS)
    assert (outcome.images, outcome.left_out, outcome.shards, outcome.missing) == (7, 1, 4, 0)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert (manifest["model"], manifest["channels"], manifest["settings"]["size"]) == ("raw pixels", 48, 8)
    assert [sorted(shard["files"]) for shard in manifest["shards"]] == [[f"shard-0000{n}.npz"] for n in range(4)]
    assert "8.png" in manifest["shards"][3]["left_out"][0][0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        MANIFEST,
        *(f"shard-0000{n}.npz" for n in range(4)),
    ]
    assert sum(path.stat().st_size for path in (tmp_path / "out").glob("*.npz")) == outcome.bytes
    assert embed(ENCODER, source, tmp_path / "out", SETTINGS) == outcome


def test_an_interrupted_run_keeps_its_shards_and_gives_the_same(source, tmp_path, monkeypatch):
    embed(ENCODER, source, tmp_path / "whole", SETTINGS)
    real, made = run.embed_shard, []

    def counted(*arguments, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(run, "embed_shard", counted)
    with pytest.raises(KeyboardInterrupt):
        embed(ENCODER, source, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / MANIFEST).exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert sorted(kept) == ["shard-00000.npz", "shard-00001.npz"]
    (tmp_path / "out" / ".unfinished-99-shard-00002.npz").write_bytes(b"half")
    (tmp_path / "out" / "shard-00001.npz").write_bytes(b"another size")
    monkeypatch.setattr(run, "embed_shard", real)
    embed(ENCODER, source, tmp_path / "out", SETTINGS)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (tmp_path / "out" / "shard-00000.npz").stat().st_mtime_ns == kept["shard-00000.npz"]


def test_parts_share_the_work_and_the_last_one_describes_the_whole(source, tmp_path):
    embed(ENCODER, source, tmp_path / "whole", SETTINGS)
    first = embed(ENCODER, source, tmp_path / "out", SETTINGS, part=(1, 2))
    assert (first.shards, first.missing) == (2, 2)
    assert not (tmp_path / "out" / MANIFEST).exists()
    assert embed(ENCODER, source, tmp_path / "out", SETTINGS, part=(2, 2)).missing == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_settings_images_and_models_are_refused_finished_or_not(source, tmp_path):
    embed(ENCODER, source, tmp_path / "finished", SETTINGS)
    embed(ENCODER, source, tmp_path / "begun", SETTINGS, part=(1, 4))
    fewer = open_images(source.name, limit=3, scene_size=8)
    other = dataclasses.replace(SETTINGS, dtype="float16")
    for folder in (tmp_path / "finished", tmp_path / "begun"):
        for arguments, message in (
            ((ENCODER, source, folder, other), "dtype 'float32' instead of 'float16'"),
            ((ENCODER, fewer, folder, SETTINGS), "other images"),
            ((PixelEncoder(patch_size=2, image_size=8), source, folder, SETTINGS), "another model"),
        ):
            with pytest.raises(UserError, match=message) as refused:
                embed(*arguments)
            assert "\n" not in str(refused.value)


def test_a_folder_of_something_else_is_refused(source, tmp_path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match="holds other files; name a new folder"):
        embed(ENCODER, source, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_full_disk_is_one_line_and_the_same_call_goes_on(source, tmp_path, monkeypatch):
    real, calls = run.write_shard, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(run, "write_shard", full)
    with pytest.raises(UserError, match=r"shard 1 cannot be written \(No space left on device\); make room"):
        embed(ENCODER, source, tmp_path / "out", SETTINGS)
    assert embed(ENCODER, source, tmp_path / "out", SETTINGS).missing == 0
    assert len(calls) == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": ("patches",)}, "--features has 'patches'"),
        ({"features": ()}, "--features is empty"),
        ({"format": "hdf5"}, "--format has"),
        ({"dtype": "int8"}, "--dtype has"),
    ],
)
def test_settings_that_there_are_not_are_one_line(values, message):
    with pytest.raises(UserError, match=message):
        EmbedSettings(**values)


def test_without_a_bar_a_long_shard_says_how_far_it_is(source, tmp_path, caplog, monkeypatch):
    now = iter(range(0, 10_000, 20))  # each look at the clock is 20 seconds after the one before
    monkeypatch.setattr(run.time, "monotonic", lambda: next(now))
    with caplog.at_level("INFO", logger=run.__name__):
        embed(ENCODER, source, tmp_path / "out", dataclasses.replace(SETTINGS, shard_images=100))
    progress = [message for message in caplog.messages if " of 8 images, " in message]
    assert caplog.messages[0] == "8 images; the first batch takes longest, as it is compiled first"
    assert [message.split(" of ")[0] for message in progress] == ["2", "4", "6"]
    assert all("images/s" in message and message.endswith(" left") for message in progress)
