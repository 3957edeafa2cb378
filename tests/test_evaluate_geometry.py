"""Correspondence and depth as a person calls them, on files in the layouts of SPair-71k and NYUv2, and on bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.spair_layout import two_categories

ROOT = Path(__file__).parents[1]


def _evaluate(root: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flsl_jax.evaluate", "--model=pixels", "--patch_size=8", f"--output={root}/out"]
    return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)


def _nyu(root: Path) -> list[str]:
    """Three images of 48 × 64 px whose brightness is their depth, with a list of pairs; the flags that name them."""
    for number in range(3):
        metres = np.kron(np.random.default_rng(number).uniform(1, 4, (6, 8)), np.ones((8, 8)))
        (root / "nyu").mkdir(parents=True, exist_ok=True)
        Image.fromarray((metres[..., None] * [60, 60, 60]).astype(np.uint8)).save(root / f"nyu/rgb_{number}.png")
        Image.fromarray((metres * 1000).astype(np.uint16)).save(root / f"nyu/depth_{number}.png")
    for name, numbers in (("train", (0, 1)), ("val", (2,))):
        lines = [f"/rgb_{number}.png /depth_{number}.png 518.8579\n" for number in numbers]
        (root / f"{name}.txt").write_text("".join(lines))
    keys = ("images={0}/nyu", "depths={0}/nyu", "names={0}/{1}.txt")
    return [f"--depth.{split}.{key.format(root, split)}" for split in ("train", "val") for key in keys]


def test_both_print_and_keep_their_scores(tmp_path: Path) -> None:
    flags = _nyu(tmp_path)
    flags += [f"--correspondence.data.root={two_categories(tmp_path)}", "--correspondence.size=256", "--depth.size=48"]
    flags += ["--depth.crop=none", "--depth.steps=300", "--depth.batch_size=2"]
    done = _evaluate(tmp_path, "--task=correspondence,depth", *flags)
    assert done.returncode == 0, done.stderr
    results = {name: json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("correspondence", "depth")}
    # 32 px seen at 256 px: a pixel is a patch.
    assert results["correspondence"]["metrics"]["pck_point"] == 0.8
    assert results["correspondence"]["settings"]["data"]["layout"] == "large"
    layer, constant = results["depth"]["rows"]
    assert layer["rmse"] < 0.6 * constant["rmse"]
    assert "judged: pairs 2, points 5, chance" in done.stdout
    assert "mean depth of train" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--task=correspondence",),
            "--correspondence.data.root is missing; --correspondence.data.name=spair needs it",
        ),
        (("--task=correspondence", "--correspondence.alpha=0"), "--correspondence.alpha is 0.0; expected more than 0"),
        (("--task=correspondence", "--correspondence.data.root=."), "PairAnnotation/test is not a folder"),
        (("--task=depth",), "--depth.train.images is missing"),
        (("--task=depth", "--depth.min_depth=-1"), "--depth.min_depth is -1.0; expected more than 0 (metres)"),
        (("--task=depth", "--depth.bins=1"), "--depth.bins is 1; expected a number from 2"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_nothing_is_written(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    done = _evaluate(tmp_path, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
