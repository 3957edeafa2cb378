"""The StableHLO program against our own network, for every kind of network, and in a process without this package."""

import json
import subprocess
import sys
from pathlib import Path

import jax.export
import jaxtyping
import numpy as np
import pytest
from PIL import Image

from flsl_jax.weights.export import parity, program_files
from flsl_jax.weights.export.program_files import ProgramOptions, export_program
from flsl_jax.weights.export.stablehlo_files import STABLEHLO, serialised
from tests.weights.export.networks import NETWORKS, tensors_of, trained_of

pytest.importorskip("flatbuffers")


@pytest.fixture(autouse=True)
def _sides_are_symbols():
    """Signatures call the sides of a grid int; while a program is exported they are symbols."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_ours_at_any_size_and_length_of_a_batch(name):
    arch = NETWORKS[name]
    tensors = tensors_of(arch)
    content, version = serialised(tensors, arch)
    assert version >= 9
    program = jax.export.deserialize(bytearray(content))
    assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    ours = parity.forward(tensors, arch)
    for batch, height, width in ((1, 20, 24), (3, 12, 8), (2, 44, 24)):
        images = np.random.default_rng(height).normal(size=(batch, height, width, arch.channels)).astype(np.float32)
        tokens = np.asarray(program.call(images))
        assert tokens.shape == (batch, height // 4, width // 4, 16)
        expected = ours(images).tokens.reshape(tokens.shape)
        np.testing.assert_allclose(tokens, expected, atol=3e-5 * max(1, np.abs(expected).max()))


def exported(monkeypatch, folder, *, channels):
    """What is trained and the report of its program, whatever path is read."""
    found = trained_of("dino", channels=channels, inv_temp=0.5)
    monkeypatch.setattr(program_files, "read_trained", lambda path, **options: found)
    return found, export_program(Path("mine"), folder / "mine.stablehlo", STABLEHLO, ProgramOptions(card=True))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_printed_code_runs_where_this_package_is_not(monkeypatch, tmp_path, channels):
    trained, report = exported(monkeypatch, tmp_path, channels=channels)
    assert len(report.differences) == 3
    assert max(report.differences.values()) < 1e-5
    assert "calling convention" in report.text()
    facts = json.loads((tmp_path / "mine.json").read_text())
    assert (facts["patch_size"], facts["mean"], facts["inv_temp"]) == (4, list(trained.mean), 0.5)
    assert (facts["image_size"], len(facts["std"])) == ([20, 24], channels)
    assert "jax.export (calling convention" in report.card.read_text()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, channels), np.uint8)
    np.save(tmp_path / "image.npy", pixels)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels[..., :3]).save(tmp_path / "photo.jpg", "PNG")
    code = (
        f"import sys\nsys.modules['flsl_jax'] = sys.modules['flax'] = None\n{report.snippet}\nnp.save('tokens', tokens)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    images = ((pixels / np.float32(255) - np.float32(facts["mean"])) / np.float32(facts["std"]))[None]
    expected = parity.forward(trained.backbones["teacher"], trained.architecture)(images).tokens
    np.testing.assert_allclose(np.load(tmp_path / "tokens.npy").reshape(expected.shape), expected, atol=1e-5)


def test_images_whose_sides_the_patch_does_not_divide_are_refused_by_the_program_itself(monkeypatch, tmp_path):
    _, report = exported(monkeypatch, tmp_path, channels=3)
    program = jax.export.deserialize(bytearray(report.path.read_bytes()))
    with pytest.raises(ValueError, match="rows"):
        program.call(np.zeros((1, 21, 24, 3), np.float32))
