"""The real command line of `python -m flsl_jax.convert`: what it prints, its card, and every wrong input as one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.weights.layouts import LAYOUTS
from flsl_jax.weights.reading.files import read_weights
from tests.weights.conversion import STEP, small_config, write_run

ROOT = Path(__file__).parents[1]
ONE_DEVICE = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def run(*flags, **environment):
    command = [sys.executable, "-m", "flsl_jax.convert", *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=ONE_DEVICE | environment, check=False
    )


def write_broken(folder, package, code):
    """A package that is installed and whose import fails; returns the PYTHONPATH that finds it first."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(code)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module", name="workdir")
def _workdir(tmp_path_factory):
    workdir = write_run(tmp_path_factory.mktemp("runs") / "first", small_config())
    lines = [f'{{"step": {step}, "loss": 1.5, "knn_any": 0.{step}25}}\n' for step in (0, STEP, STEP + 1)]
    (workdir / "metrics.jsonl").write_text("".join(lines))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(workdir / "curves.png")
    (workdir / "results").mkdir()
    (workdir / "results" / "segmentation.json").write_text(
        '{"task": "segmentation", "metrics": {"miou": 0.375}, "model": {"step": 7}}'
    )
    return workdir


def test_a_checkpoint_of_eight_devices_converts_on_one_with_a_card(workdir, tmp_path):
    done = run(f"--input={workdir}", "--format=timm", f"--output={tmp_path / 'vit'}", "--card")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'vit'}: 29 tensors" in done.stdout
    assert "the weights expect bicubic" in done.stdout
    assert "parity" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("tokens = model(images)")
    card = (tmp_path / "vit" / "README.md").read_text()
    assert "![Curves of the training](curves.png)" in card
    assert (tmp_path / "vit" / "curves.png").read_bytes() == (workdir / "curves.png").read_bytes()
    assert "Licence: **not stated**" in card
    assert "| task | metric | **this model**, step 7 | untrained |" in card
    assert "| bbox_knn, in training | any | 0.725 | 0.025 |" in card
    assert "| segmentation | miou | 0.375 | – |" in card
    assert "| started from | random values |" in card
    assert "32 synthetic scenes" in card
    assert 'timm.create_model("local-dir:' in card


def test_pytorch_that_is_installed_and_broken_is_told_from_one_that_is_missing(workdir, tmp_path):
    path = write_broken(tmp_path / "lib", "torch", "raise OSError('libcudart.so.13: cannot open shared object file')")
    flags = (f"--input={workdir}", "--format=timm")
    done = run(*flags, f"--output={tmp_path / 'vit'}", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    problem = "torch is installed but cannot be imported (OSError: libcudart.so.13: cannot open shared object file)"
    assert f"parity: not checked; {problem}; repair it and convert again, or compare" in done.stdout
    done = run(f"--input={workdir}", "--format=detectron2", f"--output={tmp_path / 'vit.pth'}", PYTHONPATH=path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"a .pth needs PyTorch; {problem}; repair it, or write" in done.stderr


def test_a_framework_that_is_installed_and_broken_is_told_in_one_line(workdir, tmp_path):
    pytest.importorskip("torch")
    path = write_broken(tmp_path / "lib", "timm", "raise AttributeError('torch has no attribute sdpa')")
    done = run(f"--input={workdir}", "--format=timm", f"--output={tmp_path / 'vit'}", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "timm is installed but cannot be used (AttributeError: torch has no attribute sdpa); the comparison is with a twin in "
        "PyTorch instead"
    ]
    assert "largest difference from the PyTorch twin" in done.stdout


def test_a_card_and_curves_stand_beside_a_file(workdir, tmp_path):
    flags = (
        f"--input={workdir / 'checkpoints' / str(STEP)}",
        "--format=dino",
        f"--output={tmp_path / 'vit.safetensors'}",
    )
    done = run(*flags, "--card", "--network=both", "--what=all", "--dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit.md", "vit.safetensors", "vit_curves.png"]
    assert "(vit_curves.png)" in (tmp_path / "vit.md").read_text()
    names = read_weights(tmp_path / "vit.safetensors").tensors
    assert "student.module.backbone.pos_embed" in names
    assert "teacher.head.last_layer.weight_v" in names


def test_a_dry_run_of_sending_shows_the_files_and_the_card_and_needs_no_token(workdir, tmp_path):
    flags = (f"--input={workdir}", "--format=dino", f"--output={tmp_path / 'vit.safetensors'}")
    done = run(*flags, "--push_to=me/vit-flsl", "--dry_run", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    shown = done.stdout[done.stdout.index("would be sent to me/vit-flsl, 3 files:") :]
    assert re.findall(r"^  (\S+)  [\d.]+ [KM]iB$", shown, re.MULTILINE) == [
        "README.md",
        "vit.safetensors",
        "vit_curves.png",
    ]
    assert "--- README.md ---\n---\nlicense: " in shown
    assert 'load_file("vit.safetensors")' in shown
    assert str(tmp_path) not in shown
    assert (tmp_path / "vit.md").exists()


def test_a_written_file_is_an_input_again(workdir, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second.safetensors"
    assert run(f"--input={workdir}", "--format=timm", f"--output={first}").returncode == 0
    done = run(f"--input={first}", "--format=mmseg", f"--output={second}", "--card")
    assert done.returncode == 0, done.stderr
    before, after = read_weights(first / "model.safetensors").tensors, read_weights(second).tensors
    np.testing.assert_array_equal(
        after["layers.1.attn.attn.in_proj_weight"], before["blocks.1.attn.qkv.weight"], strict=True
    )
    assert "converted from the weight file" in second.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--input is missing"),
        (("--input={}/nowhere", "--format=timm", "--output={}/vit"), "nowhere does not exist"),
        (("--input={}", "--format=detectron", "--output={}/x.pth"), 'did you mean "detectron2"'),
        (("--input={}", "--format=onnix", "--output={}/x.onnx"), 'did you mean "onnx"'),
        (("--input={}", "--format=stablehl", "--output={}/x.onnx"), 'did you mean "stablehlo"'),
        (("--input={}", "--format=timm", "--output={}/vit", "--push_to=me"), "--push_to=me: expected USER/NAME"),
        (("--input={}", "--format=timm", "--output={}/vit", "--dry_run"), "--dry_run is for --push_to=USER/NAME"),
        (("--input={}", "--format=timm", "--output={}/vit", "--noprivate"), "--noprivate is for --push_to=USER/NAME"),
        (
            ("--input={}", "--format=timm", "--output={}/vit", "--grid=4x4"),
            "--grid=4x4: expected whole numbers with commas",
        ),
        (("--input={}", "--format=timm", "--output={}/vit", "--grid=4"), "--grid is (4,); expected rows and columns"),
        (("--input={}", "--format=dinov2", "--output={}/x.safetensors"), "always has a class token"),
        (("--input={}", "--format=timm", "--output={}"), "exists; name another --output"),
        (("--input={}", "--format=timm", "--output={}/vit", "--network=mean"), "mean"),
        (("--input={}/checkpoints/6", "--format=timm", "--output={}/vit"), "does not exist"),
        (("--input={}", "--format=timm", "--output=/proc/vit"), "--output=/proc/vit cannot be written"),
        (("--input={}", "--format=timm", "--output={}/vit", "--num_heads=4"), "num_heads=4 is for weight files"),
        (("--input={}", "--format=timm", "--output={}/vit", "stray"), "unexpected argument 'stray'"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(workdir, flags, message):
    done = run(*(flag.format(workdir) for flag in flags))
    assert done.returncode == 2, done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (workdir / "vit").exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(workdir, tmp_path):
    flags = f"--input={workdir} --format=mmseg --output={tmp_path / 'vit.safetensors'}"
    limited = ["bash", "-c", f"ulimit -f 20; {sys.executable} -m flsl_jax.convert {flags}"]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=240, cwd=ROOT, env=ONE_DEVICE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the file cannot be written to")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help_names_every_flag_and_format():
    text = " ".join(run("--help").stdout.split()).replace("- ", "-")
    for flag in (
        "input",
        "format",
        "output",
        "network",
        "what",
        "dtype",
        "num_heads",
        "card",
        "overwrite",
        "allow_mismatch",
        "prefix",
        "source",
        "grid",
        "push_to",
        "private",
        "dry_run",
    ):
        assert f"--{flag}:" in text or f"--[no]{flag}:" in text
    assert "docs/weights.md" in text
    formats, program = re.search(r"The code to read it: (.*?)\. docs/", text).group(1).split("; or ", 1)
    assert program == "a program for images of any size: onnx, or stablehlo (jax.export)"
    assert re.sub(r" \(.*?\)", "", formats).split(", ") == list(LAYOUTS)
