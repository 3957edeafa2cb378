"""The tasks with masks as a person calls them, and bad input that ends them before anything is encoded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mask_encoders import stripes

ROOT = Path(__file__).parents[1]
TASKS = {"retrieval": ("train", "val"), "clustering": ("data",), "linear_probe": ("train", "val")}


def _evaluate(tasks: list[str], root: Path, *extra: str) -> subprocess.CompletedProcess:
    flags = [f"--{task}.size=64" for task in tasks]
    for task in tasks:
        for key in TASKS[task]:
            flags += [f"--{task}.{key}.images={root}/images", f"--{task}.{key}.masks={root}/masks"]
    command = [sys.executable, "-m", "flsl_jax.evaluate", "--model=pixels", "--patch_size=8", f"--output={root}/out"]
    return subprocess.run(
        [*command, f"--task={','.join(tasks)}", *flags, *extra], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_every_task_prints_and_keeps_its_scores(tmp_path: Path) -> None:
    stripes(tmp_path, 5)
    done = _evaluate(list(TASKS), tmp_path, "--clustering.seeds=1", "--linear_probe.epochs=20")
    assert done.returncode == 0, done.stderr
    for task in TASKS:
        result = json.loads((tmp_path / "out" / f"{task}.json").read_text())
        assert next(iter(result["metrics"])) == "miou"
        assert 0.8 < result["metrics"]["miou"] <= 1
        assert result["settings"]["size"] == 64
        assert f"{task} of raw pixels" in done.stdout


def test_a_mask_of_another_size_is_one_line_and_nothing_is_written(tmp_path: Path) -> None:
    stripes(tmp_path, 2)
    Image.fromarray(np.zeros((64, 32), np.uint8)).save(tmp_path / "masks/0.png")
    done = _evaluate(["clustering"], tmp_path)
    assert done.returncode == 2
    assert "masks/0.png is 32×64, its image" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_masks_of_0_and_255_are_one_line_whose_flag_makes_them_two_classes(tmp_path: Path) -> None:
    mask = np.repeat(np.array([0, 255], np.uint8), 32)[None].repeat(64, axis=0)
    for folder, pixels in (
        ("images", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)),
        ("masks", mask),
    ):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "0.png")
    done = _evaluate(["clustering"], tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
    (flag,) = re.findall(r'(--clustering\.data\.ignore)="\(\)"', done.stderr)
    done = _evaluate(["clustering"], tmp_path, f"{flag}=()", "--clustering.seeds=1")
    assert done.returncode == 0, done.stderr
    assert "judged: classes 2, ignored_share 0.0000" in done.stdout
    result = json.loads((tmp_path / "out" / "clustering.json").read_text())
    assert result["judged"] == {"classes": 2, "ignored_share": 0}
    assert result["metrics"]["miou"] < 0.7
