"""The ONNX backbone against our own network: every kind of network, and sizes below, at and above the training's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.errors import UserError
from flsl_jax.weights.export import parity, program_files
from flsl_jax.weights.export.onnx_files import ONNX
from flsl_jax.weights.export.onnx_graph import OPSET, onnx_model
from flsl_jax.weights.export.program_files import export_program
from tests.weights.export.networks import NETWORKS, tensors_of, trained_of

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
SIZES = ((1, 20, 24), (3, 12, 8), (2, 20, 28), (1, 44, 24), (2, 4, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_ours_at_any_size_and_length_of_a_batch(name):
    arch = NETWORKS[name]
    tensors = tensors_of(arch)
    model = onnx_model(tensors, arch, mean=(0.5,) * arch.channels, std=(0.5,) * arch.channels)
    assert [opset.version for opset in model.opset_import] == [OPSET]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours = parity.forward(tensors, arch)
    for batch, height, width in SIZES:
        images = np.random.default_rng(height).normal(size=(batch, height, width, arch.channels)).astype(np.float32)
        (tokens,) = session.run(None, {"images": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
        assert tokens.shape == (batch, height // 4, width // 4, 16)
        expected = ours(images).tokens.reshape(tokens.shape)
        np.testing.assert_allclose(tokens, expected, atol=3e-5 * max(1, np.abs(expected).max()))


@pytest.fixture
def trained(monkeypatch):
    """A run of a random network, whatever path is read."""
    found = trained_of("dino")
    monkeypatch.setattr(program_files, "read_trained", lambda path, **options: found)
    return found


def test_a_file_appears_with_its_normalisation_once_three_sizes_agree(trained, tmp_path):
    report = export_program(Path("mine"), tmp_path / "mine.onnx", ONNX)
    assert len(report.differences) == 3
    assert max(report.differences.values()) < 1e-5
    assert f"MiB, opset {OPSET}\n" in report.text()
    assert "largest difference of onnxruntime's tokens" in report.text()
    facts = {prop.key: json.loads(prop.value) for prop in onnx.load(tmp_path / "mine.onnx").metadata_props}
    assert facts == {"patch_size": 4, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB"}


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_printed_code_runs(tmp_path, monkeypatch, channels):
    found = trained_of("dino", channels=channels)
    monkeypatch.setattr(program_files, "read_trained", lambda path, **options: found)
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    np.save("image.npy", np.resize(pixels, (20, 24, channels)))
    names = {}
    exec(export_program(Path("mine"), Path("mine.onnx"), ONNX).snippet, names)
    assert names["tokens"].shape == (1, 5, 6, 16)
    assert names["images"].shape == (1, channels, 20, 24)


def test_a_graph_that_onnxruntime_cannot_run_is_not_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("flsl_jax.weights.export.onnx_files.onnx_model", lambda *given, **more: onnx.ModelProto())
    with pytest.raises(UserError, match=r"onnxruntime cannot run this graph \(.*\); nothing was written"):
        export_program(Path("mine"), tmp_path / "mine.onnx", ONNX)
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
