"""`python -m flsl_jax.evaluate` as a person calls it: models, tasks, results and bad input."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from flsl_jax.config import ReadingConfig, to_dict
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import NetworkEncoder
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.loop import train
from flsl_jax.models import Architecture, ViT
from flsl_jax.networks import network_graph
from flsl_jax.training.optimizer import make_optimizer
from flsl_jax.training.state import create_state
from flsl_jax.weights.canonical import backbone_tensors
from tests.davis_layout import write_layout
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[1]
SCENES = [
    flag
    for split, count in (("train", 24), ("val", 12))
    for flag in (
        f"--bbox_knn.{split}.name=scenes",
        f"--bbox_knn.{split}.count={count}",
        f"--bbox_knn.{split}.scene_size=32",
        f"--bbox_knn.{split}.split={split}",
    )
]
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), dtype=np.uint8)


def evaluate(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flsl_jax.evaluate", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(tiny_config(stop_at_step=2), workdir=folder)
    return folder


def test_a_run_is_judged_and_its_result_kept_beside_it(workdir):
    done = evaluate(f"--model={workdir}", "--task=bbox_knn", *SCENES)
    assert done.returncode == 0, done.stderr
    result = json.loads((workdir / "results" / "bbox_knn.json").read_text())
    assert result["model"]["step"] == 2
    assert result["model"]["in_workdir"]
    assert result["settings"]["train"]["count"] == 24
    assert re.search(rf"any +{result['metrics']['any']:.4f}\n", done.stdout)
    assert 0 <= result["metrics"]["token"] <= result["metrics"]["any"] <= 1


def test_several_models_are_one_table_and_a_file_each(workdir, tmp_path):
    models = f"{workdir},untrained:{workdir},pixels:{workdir}"
    done = evaluate(f"--model={models}", "--task=bbox_knn", f"--output={tmp_path}", *SCENES)
    assert done.returncode == 0, done.stderr
    names = [f"{workdir.name}, step 2", f"{workdir.name}, untrained", "raw pixels"]
    assert [line for line in done.stderr.splitlines() if line.startswith("measuring")] == [
        f"measuring bbox_knn of {name} ({number} of 3)" for number, name in enumerate(names, 1)
    ]
    assert done.stdout.splitlines()[:2] == ["bbox_knn of 3 models, 36 images", " " * 20 + "  ".join(names)]
    for name, stem in zip(names, (f"{workdir.name}_step_2", f"{workdir.name}_untrained", "raw_pixels"), strict=True):
        written = json.loads((tmp_path / stem / "bbox_knn.json").read_text())
        assert written["model"]["name"].endswith(name)
        assert not written["model"]["in_workdir"]
        assert f"{written['metrics']['token']:.4f}" in next(
            line for line in done.stdout.splitlines() if line.startswith("  token ")
        )
        assert str(tmp_path / stem / "bbox_knn.json") in done.stdout


def test_every_model_is_opened_before_the_first_is_judged(workdir, tmp_path):
    done = evaluate(f"--model={workdir},{tmp_path}/nowhere", "--task=bbox_knn", f"--output={tmp_path}/out", *SCENES)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "nowhere does not exist" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model={run},{run}", "--task=bbox_knn", *SCENES], "more than once; name every model once"),
        (
            ["--model={run},pixels:{run}", "--task=bbox_knn", "--bbox_knn.features=/x", *SCENES],
            "--bbox_knn.features is a folder for one model; leave it out",
        ),
        (["--model={run},pixels", "--patch_size=8", "--task=bbox_knn", *SCENES], "--output is missing; pixels has no"),
        (["--model={run}", "--task=bbox_kn"], "there is no task 'bbox_kn'; did you mean \"bbox_knn\"?"),
        (["--model=pixels", "--patch_size=8", "--task=bbox_knn", *SCENES], "--output is missing"),
        (["--model={run}", "--network=student", "--task=bbox_knn", *SCENES], "are its teacher's, not its student's"),
        (["--model={run}", "--prefix=vit.", "--task=bbox_knn", *SCENES], "prefix=vit. is for weight files"),
        (["--model={run}", "--task=bbox_knn"], "--bbox_knn.train.root is missing"),
        (["--task=bbox_knn", *SCENES], "--model is missing"),
        (["--model={run}", "--task=video"], "--video.root is missing; --video.name=davis needs it"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(workdir, arguments, message):
    done = evaluate(*(argument.format(run=workdir) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{run}/nowhere", "nowhere does not exist"),
        ("untrained:{run}/nowhere", r"nowhere/config\.json is not there"),
        ("untrained", "write --model=untrained:WORKDIR"),
        ("pixels", "needs --patch_size"),
    ],
)
def test_what_is_no_model_is_refused(workdir, source, message):
    with pytest.raises(UserError, match=message):
        open_model(source.format(run=workdir))


def test_help_tells_what_each_task_judges_needs_and_takes():
    done = evaluate("--help")
    for word in (
        "--model",
        "untrained:WORKDIR",
        "do single patch features tell",
        "Needs: images with boxes",
        "--bbox_knn.k=20",
    ):
        assert word in done.stdout


def test_models_open_by_one_word(workdir):
    run, newest = open_model(str(workdir)), open_model(str(workdir / "checkpoints" / "2"))
    assert (run.step, newest.step, run.results, newest.results) == (
        2, 2, workdir / "results", workdir / "results" / "step_2",
    )  # fmt: skip
    np.testing.assert_array_equal(run.encoder.tokens(IMAGES), newest.encoder.tokens(IMAGES))
    assert run.encoder.inv_temp == pytest.approx(0.1 / 384**0.5)
    pixels = open_model(f"pixels:{workdir}")
    assert (pixels.encoder.patch_size, pixels.encoder.image_size, pixels.step) == (8, 32, None)
    alone = open_model("pixels", patch_size=4)
    assert alone.encoder.tokens(IMAGES).shape == (2, 8, 10, 48)
    assert alone.results is None


def test_a_weight_file_that_does_not_say_its_heads_takes_those_that_it_is_told(tmp_path):
    architecture = Architecture(
        patch_size=8, width=128, depth=1, num_heads=4, grid=(4, 4), pos_resize="bicubic_antialias"
    )
    model = ViT(architecture, init_std=0.2, rngs=nnx.Rngs(0))
    tensors = backbone_tensors(nnx.to_pure_dict(nnx.split(model, nnx.Param)[1]), architecture)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, tmp_path / "bare.safetensors")
    told, assumed = (
        open_model(str(tmp_path / "bare.safetensors"), reading=ReadingConfig(num_heads=number)) for number in (4, 0)
    )
    expected = NetworkEncoder(model, name="own").tokens(IMAGES)
    np.testing.assert_allclose(told.encoder.tokens(IMAGES), expected, atol=1e-5)
    assert np.abs(assumed.encoder.tokens(IMAGES) - expected).max() > 1e-3


def test_untrained_is_the_run_before_its_first_step(workdir):
    untrained = open_model(f"untrained:{workdir}")
    config = untrained.config
    state = create_state(config, optimizer=make_optimizer(b1=0.9, b2=0.999, freeze_last_layer_steps=0))
    start = NetworkEncoder(nnx.merge(network_graph(config), state.teacher).backbone, name="start")
    assert (untrained.step, untrained.results) == (0, workdir / "results" / "untrained")
    np.testing.assert_array_equal(untrained.encoder.tokens(IMAGES), start.tokens(IMAGES))
    assert (untrained.encoder.tokens(IMAGES) != open_model(str(workdir)).encoder.tokens(IMAGES)).any()


def test_the_temperature_of_a_model_is_the_factor_of_products_of_tokens_on_either_scale(tmp_path):
    config = tiny_config(objective={"self_inv_temp": {"start": 2.0, "end": 4.0}, "inv_temp_scale": "mean"})
    (tmp_path / "config.json").write_text(json.dumps(to_dict(config)))
    assert open_model(f"untrained:{tmp_path}").encoder.inv_temp == 4.0 / config.model.width


def test_masks_are_judged_without_a_model(tmp_path):
    write_layout(tmp_path / "davis", tmp_path / "masks")
    arguments = (f"--video.root={tmp_path / 'davis'}", f"--video.predictions={tmp_path / 'masks'}")
    done = evaluate("--task=video", f"--output={tmp_path / 'out'}", *arguments)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "video.json").read_text())
    assert (result["images"], result["model"]["name"]) == (0, "no model")
    assert len(result["rows"]) == 14
    assert f"jf_mean    {result['metrics']['jf_mean']:.4f}" in done.stdout
