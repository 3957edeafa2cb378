"""The ONNX backbone against our own network: every kind of network, and sizes below, at and above the training's."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.canonical import backbone_tensors
from flsl_jax.weights.export import onnx_files, parity
from flsl_jax.weights.export.onnx_graph import OPSET, onnx_model
from flsl_jax.weights.export.trained import Trained
from tests.weights.test_canonical import random_params

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
PLAIN = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(5, 6))
NETWORKS = {
    "plain": PLAIN,
    "dino": dataclasses.replace(PLAIN, pos_resize="bicubic_dino", num_prefix=1),
    "timm": dataclasses.replace(PLAIN, pos_resize="bicubic_antialias", num_prefix=5, layer_scale=True, norm_eps=1e-5),
    "sincos": dataclasses.replace(PLAIN, pos_embed="sincos"),
    "gated": dataclasses.replace(PLAIN, mlp="swiglu", mlp_hidden=24),
    "dinov3": dataclasses.replace(
        PLAIN, pos_embed="rope", rope_periods=(1.0, 7.0), num_prefix=5, layer_scale=True, mlp="swiglu", mlp_hidden=24
    ),
    "rotary alone": dataclasses.replace(PLAIN, pos_embed="rope", rope_periods=(1.0, 7.0)),
    "detector": dataclasses.replace(PLAIN, final_norm=False),
}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def tensors_of(arch):
    return backbone_tensors(random_params(ViT(arch, rngs=nnx.Rngs(0))), arch)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_ours_at_any_size_and_length_of_a_batch(name):
    arch = NETWORKS[name]
    tensors = tensors_of(arch)
    model = onnx_model(tensors, arch, **IMAGENET)
    assert [opset.version for opset in model.opset_import] == [OPSET]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = parity.forward(tensors, arch)
    for batch, height, width in ((1, 20, 24), (3, 12, 8), (2, 20, 28), (1, 44, 24), (2, 4, 4)):
        images = np.random.default_rng(height).normal(size=(batch, height, width, 3)).astype(np.float32)
        (tokens,) = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
        assert tokens.shape == (batch, height // 4, width // 4, 16)
        expected = ours(images).tokens.reshape(tokens.shape)
        np.testing.assert_allclose(tokens, expected, atol=3e-5 * max(1, np.abs(expected).max()))


@pytest.fixture
def trained(monkeypatch):
    """A run of a random network, whatever path is read."""
    arch = NETWORKS["dino"]
    found = Trained(architecture=arch, backbones={"teacher": tensors_of(arch)}, heads={}, source="mine", **IMAGENET)
    monkeypatch.setattr(onnx_files, "read_trained", lambda path, **options: found)
    return found


def test_a_file_appears_with_its_normalisation_once_three_sizes_agree(trained, tmp_path):
    report = onnx_files.export_onnx(Path("mine"), tmp_path / "mine.onnx")
    assert len(report.differences) == 3
    assert max(report.differences.values()) < 1e-5
    assert f"opset {OPSET}" in report.text()
    facts = {prop.key: json.loads(prop.value) for prop in onnx.load(tmp_path / "mine.onnx").metadata_props}
    assert facts == {"patch_size": 4, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB"}
    with pytest.raises(UserError, match="exists; name another --output"):
        onnx_files.export_onnx(Path("mine"), tmp_path / "mine.onnx")
    onnx_files.export_onnx(Path("mine"), tmp_path / "mine.onnx", overwrite=True)
    with pytest.raises(UserError, match=r"expected a name that ends in \.onnx"):
        onnx_files.export_onnx(Path("mine"), tmp_path / "mine.pth")


def test_the_printed_code_runs(trained, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save("photo.jpg")
    names = {}
    exec(onnx_files.export_onnx(Path("mine"), Path("mine.onnx")).snippet, names)
    assert names["tokens"].shape == (1, 5, 6, 16)


def test_a_graph_that_computes_something_else_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "_run", lambda content, images: np.zeros((2, 1, 1, 16)) + 7)
    monkeypatch.setattr(onnx_files, "_difference", lambda theirs, ours: 0.5)
    with pytest.raises(UserError, match=r"tokens differ by 5\.0e-01, more than 1e-04; nothing was written"):
        onnx_files.export_onnx(Path("mine"), tmp_path / "mine.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--what=all",), "--what=all does not go with --format=onnx"),
        (("--dtype=float16",), "--dtype=float16 does not go with"),
        (("--network=both",), "--network=both does not go with"),
        ((), "nowhere does not exist"),
    ],
)
def test_what_it_cannot_do_is_one_line(flags, message, tmp_path):
    command = [
        sys.executable,
        "-m",
        "flsl_jax.convert",
        "--input=nowhere",
        "--format=onnx",
        f"--output={tmp_path}/x.onnx",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
