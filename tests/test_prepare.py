"""The real command line of `python -m flsl_jax.prepare`, killed and run again."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.sources.shards import ShardSource

_ROOT = Path(__file__).parents[1]


def _command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "flsl_jax.prepare", *flags]


def _run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*flags), capture_output=True, text=True, timeout=120, cwd=_ROOT, check=False)


@pytest.fixture(name="images")
def _images(tmp_path: Path) -> Path:
    """A hundred JPEG files that take a while to reduce."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(100):
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i:03d}.jpg")
    return tmp_path / "images"


def test_killed_and_run_again_it_gives_the_same_bytes(images: Path, tmp_path: Path) -> None:
    flags = (f"--input={images}", "--short_side=200", "--records_per_shard=4", "--workers=1")
    whole, out = tmp_path / "whole", tmp_path / "out"
    result = _run(*flags, f"--output={whole}")
    assert result.returncode == 0, result.stderr
    assert "100 images in 25 shards" in result.stdout
    process = subprocess.Popen(_command(*flags, f"--output={out}"), cwd=_ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*.array_record"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -9
    assert not (out / "manifest.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    finished = {path.stem for path in (out / "unfinished").glob("*.array_record.json")}
    assert len(finished) >= 2
    result = _run(*flags, f"--output={out}")
    assert result.returncode == 0, result.stderr
    assert all((out / name).stat().st_mtime_ns == kept[name] for name in finished)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }
    assert len(ShardSource(out)) == 100
    result = _run(f"--output={out}", "--verify")
    assert result.returncode == 0
    assert "every shard matches its checksum: 100 images in 25 shards" in result.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--output is missing"),
        (("--output={}/out",), "--input is missing"),
        (("--output={}/out", "--input={}/nowhere"), "nowhere cannot be read"),
        (("--output={}/out", "--input={}"), "holds no image file"),
        (("--output={}/out", "--verify"), "is not there; name the folder that"),
        (("--output={}/out", "--input={}", "stray"), "unexpected argument 'stray'"),
    ],
)
def test_wrong_flags_are_one_line_and_code_2(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    result = _run(*(flag.format(tmp_path) for flag in flags))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_help_names_every_flag() -> None:
    result = _run("--help")
    for flag in ("input", "output", "short_side", "boxes", "records_per_shard", "workers", "verify"):
        assert f"--{flag}:" in result.stdout or f"--[no]{flag}:" in result.stdout
    assert "the same command goes on" in " ".join(result.stdout.split())


def test_it_loads_neither_tensorflow_nor_torch() -> None:
    code = "import sys, flsl_jax.prepare; print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert result.stdout.strip() == "[]"


def test_what_reducing_would_lose_is_said_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    page = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40)
    pages = [Image.fromarray(page), Image.fromarray(page + 1)]
    for name in ("a", "b"):
        pages[0].save(tmp_path / "cells" / f"{name}.tif", save_all=True, append_images=pages[1:])
    flags = (f"--input={tmp_path / 'cells'}", "--workers=0")
    dark = _run(*flags, f"--output={tmp_path / 'dark'}", "--short_side=16")
    assert "values from 0 to 1,919" in dark.stderr
    assert "nearly black; what --short_side reduces stays so: set --window=LOW,HIGH" in dark.stderr
    assert "2 of 2 files looked at have several pages, such as a.tif with 2: the first of each" in dark.stderr
    light = _run(*flags, f"--output={tmp_path / 'light'}", "--short_side=16", "--window=0,1919")
    assert "nearly black" not in light.stderr
    whole = _run(*flags, f"--output={tmp_path / 'whole'}")  # its bytes are kept
    assert "nearly black" not in whole.stderr
    assert "2 images in 1 shard in" in whole.stdout
