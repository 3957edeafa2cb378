"""`python -m flsl_jax.visualize` as a person calls it: a trained run, its untrained network, raw pixels; and bad input."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from PIL import Image

from flsl_jax.album import Album, make_album
from flsl_jax.checkpoints import Checkpoints
from flsl_jax.config import to_dict
from flsl_jax.config.saved import write_first_config
from flsl_jax.errors import UserError
from flsl_jax.training.optimizer import make_optimizer
from flsl_jax.training.state import create_state
from tests.tiny import tiny_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROOT = Path(__file__).parents[1]


def visualize(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flsl_jax.visualize", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose checkpoint is that of its first step; pictures do not ask whether it has learned anything."""
    folder, config = tmp_path_factory.mktemp("run"), tiny_config()
    write_first_config(config, folder / "config.json")
    state = create_state(config, optimizer=make_optimizer(b1=0.9, b2=0.999, freeze_last_layer_steps=0))
    with contextlib.closing(Checkpoints(folder / "checkpoints", keep=1)) as checkpoints:
        checkpoints.save(2, jax.device_get(state), run={"config": to_dict(config), "step": 2})
    lines = [{"step": step, "loss": 5.0 / step, "images_per_sec": 2.0} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_every_picture_and_the_report_of_a_run_beside_its_untrained_network(workdir, tmp_path):
    done = visualize(
        f"--model={workdir},untrained:{workdir}", "--images=scenes", "--limit=2", f"--output={tmp_path}", "--compare",
        "--report", "--query=3,4", "--query=30,20",
        "--pictures=ass,ass_last,ratio,similarity,attention,tsne,pca,clusters,neighbours,curves",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = ("ass", "similarity", "attention", "tsne", "neighbours")
    expected = {f"scene_{number}_{kind}.png" for number in (0, 1) for kind in kinds}
    expected |= {f"{kind}.png" for kind in ("ass_last", "ratio", "pca", "clusters", "curves")} | {"report.html"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    assert {Path(line).name for line in done.stdout.splitlines()} == expected
    with Image.open(tmp_path / "scene_0_ass.png") as picture:
        assert picture.height > picture.width  # layers 0, 1, 2 and tokens below each other, two models beside the image
    page = (tmp_path / "report.html").read_text()
    # Each once for wide screens and once for phones; the curves are there as a drawing of their own.
    assert page.count("data:image/png") == 2 * (len(expected) - 2)
    assert page.count("data:image/svg+xml") == 2


def test_curves_need_no_images(workdir, tmp_path):
    done = visualize(f"--model={workdir}", "--pictures=curves", f"--output={tmp_path}")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'curves.png'}\n"), done.stderr


def test_a_photo_at_its_ratio_with_raw_pixels(workdir, tmp_path):
    Image.effect_noise((60, 30), 80).save(tmp_path / "photo.png")
    album = Album(
        models=[f"pixels:{workdir}"], images=str(tmp_path / "photo.png"), output=tmp_path / "out", size=24,
        pictures=["ass", "pca"],
        narrow=True,
    )  # fmt: skip
    assert [path.name for path in make_album(album)] == [
        "photo_ass.png", "pca.png", "photo_ass_narrow.png", "pca_narrow.png",
    ]  # fmt: skip


def test_bad_input_is_one_line_and_exit_code_2(workdir, tmp_path):
    done = visualize(f"--model={workdir}", "--images=scenes", f"--output={tmp_path}/out", "--pictures=as")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: there is no picture 'as'; did you mean \"ass\"?"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "gone"}, "--images=gone does not exist"),
        ({"search": "gone"}, "--search=gone does not exist"),
        ({"models": ["pixels:{run}"], "pictures": ["attention"]}, "raw pixels has no attention"),
        ({"models": ["{run}", "{run}"]}, "more than once"),
        ({"pictures": ["neighbours"], "limit": 1}, "no other image"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(workdir, tmp_path, changes, message):
    values = {"models": [str(workdir)], "images": "scenes", "output": tmp_path / "out"} | changes
    values["models"] = [model.format(run=workdir) for model in values["models"]]
    with pytest.raises(UserError, match=message):
        make_album(Album(**values))
    assert not (tmp_path / "out").exists()
