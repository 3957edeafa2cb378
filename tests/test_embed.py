"""The real command line of `python -m flsl_jax.embed`: killed and run again, and what it refuses."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.embed import parse_part
from flsl_jax.errors import UserError

ROOT = Path(__file__).parents[1]


def command(*flags):
    return [sys.executable, "-m", "flsl_jax.embed", "--model=pixels", "--patch_size=8", "--size=32", *flags]


def run(*flags):
    return subprocess.run(command(*flags), capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(tmp_path / "images" / f"{number:02d}.jpg")
    return tmp_path / "images"


def test_killed_and_run_again_it_loses_at_most_one_shard(images, tmp_path):
    flags = (f"--images={images}", "--features=mean,patch,mode,cluster", "--format=npy", "--shard_images=4")
    whole, out = tmp_path / "whole", tmp_path / "out"
    done = run(*flags, f"--output={whole}")
    assert (done.returncode, done.stdout.startswith("60 images, 1,440 patches, ")) == (0, True), done.stderr
    assert "shard 15 of 15: " in done.stderr
    process = subprocess.Popen(command(*flags, f"--output={out}"), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("name-*.npy"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    assert not (out / "embedding.json").exists()
    for path in out.glob("*.npy"):  # what has its name is whole
        if path.name[0] != ".":
            assert path.read_bytes() == (whole / path.name).read_bytes()
    finished = len(list((out / "unfinished").glob("0*.json")))
    assert finished >= 2
    done = run(*flags, f"--output={out}")
    assert done.returncode == 0, done.stderr
    assert f"{finished} of 15 shards are done and kept" in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
    assert "nothing is left to do" in run(*flags, f"--output={out}").stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--images is missing"),
        (("--images=scenes",), "--output is missing"),
        (("--images=nowhere", "--output=x"), "--images=nowhere: nowhere cannot be read (No such file"),
        (
            ("--images=scenes", "--output=x", "--features=tokens"),
            "--features has 'tokens'; expected mean, patch, mode, cluster",
        ),
        (("--images=scenes", "--output=x", "--part=3/2"), "--part=3/2: expected i/n"),
        (("--images=scenes", "--output=x", "--crop", "--size=30"), "size is 30; crops need a multiple"),
        (("--images=scenes", f"--output={ROOT}"), "holds other files; name a new folder"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(*flags), capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_parts_are_numbers_from_1():
    assert parse_part("2/4") == (2, 4)
    for text in ("0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"):
        with pytest.raises(UserError, match="expected i/n"):
            parse_part(text)


def test_a_column_of_a_table_is_chosen(images, tmp_path):
    table = images / "pairs.csv"
    table.write_text("path,partner\n00.jpg,01.jpg\n02.jpg,03.jpg\n")
    done = run(f"--images={table}", f"--output={tmp_path / 'out'}", "--image_column=partner", "--format=npy")
    assert done.returncode == 0, done.stderr
    (names,) = (tmp_path / "out").glob("name-*.npy")
    assert np.load(names).tolist() == ["01.jpg", "03.jpg"]


def test_images_of_which_none_can_be_read_are_one_line(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8)))
    done = run(f"--images={tmp_path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "no image of 1 can be read; the first: a.npy: floating-point pixels" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
