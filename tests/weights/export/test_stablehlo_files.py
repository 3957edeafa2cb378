"""The StableHLO program against our own network, for every kind of network, and in a process without this package."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax.export
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.weights.canonical import backbone_tensors
from flsl_jax.weights.export import parity, stablehlo_files
from flsl_jax.weights.export.trained import Trained
from tests.weights.test_canonical import random_params

pytest.importorskip("flatbuffers")

PLAIN = Architecture(patch_size=4, width=16, depth=2, num_heads=2, grid=(5, 6))
NETWORKS = {
    "plain": PLAIN,
    "dino": dataclasses.replace(PLAIN, pos_resize="bicubic_dino", num_prefix=1),
    "timm": dataclasses.replace(PLAIN, pos_resize="bicubic_antialias", num_prefix=5, layer_scale=True, norm_eps=1e-5),
    "sincos": dataclasses.replace(PLAIN, pos_embed="sincos"),
    "detector": dataclasses.replace(PLAIN, final_norm=False, channels=2),
    "dinov3": dataclasses.replace(
        PLAIN, pos_embed="rope", rope_periods=(1.0, 7.0), num_prefix=5, layer_scale=True, mlp="swiglu", mlp_hidden=24
    ),
}


@pytest.fixture(autouse=True)
def _sides_are_symbols():
    """Signatures call the sides of a grid int; while a program is exported they are symbols."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def tensors_of(arch):
    return backbone_tensors(random_params(ViT(arch, rngs=nnx.Rngs(0))), arch)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_are_ours_at_any_size_and_length_of_a_batch(name):
    arch = NETWORKS[name]
    tensors = tensors_of(arch)
    content, version = stablehlo_files.serialised(tensors, arch)
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


@pytest.fixture(name="trained")
def _trained(monkeypatch):
    """A run of a random network, whatever path is read."""
    arch = NETWORKS["dino"]
    found = Trained(architecture=arch, backbones={"teacher": tensors_of(arch)}, heads={}, source="mine", inv_temp=0.5)
    monkeypatch.setattr(stablehlo_files, "read_trained", lambda path, **options: found)
    return found


def test_the_printed_code_runs_where_this_package_is_not(trained, tmp_path):
    from PIL import Image

    report = stablehlo_files.export_stablehlo(Path("mine"), tmp_path / "mine.stablehlo", with_card=True)
    assert len(report.differences) == 3
    assert max(report.differences.values()) < 1e-5
    assert "calling convention" in report.text()
    facts = json.loads((tmp_path / "mine.json").read_text())
    assert (facts["patch_size"], facts["mean"], facts["inv_temp"]) == (4, [0.485, 0.456, 0.406], 0.5)
    assert "jax.export (calling convention" in report.card.read_text()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", "PNG")
    code = (
        f"import sys\nsys.modules['flsl_jax'] = sys.modules['flax'] = None\n{report.snippet}\nnp.save('tokens', tokens)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    images = ((pixels / np.float32(255) - np.float32(facts["mean"])) / np.float32(facts["std"]))[None].astype(
        np.float32
    )
    expected = parity.forward(trained.backbones["teacher"], trained.architecture)(images).tokens
    np.testing.assert_allclose(np.load(tmp_path / "tokens.npy").reshape(expected.shape), expected, atol=1e-5)
    # Images whose sides the patch does not divide are refused by the program itself.
    program = jax.export.deserialize(bytearray((tmp_path / "mine.stablehlo").read_bytes()))
    with pytest.raises(ValueError, match="rows"):
        program.call(np.zeros((1, 21, 24, 3), np.float32))


def test_what_is_there_or_computes_something_else_is_not_written(trained, tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"mine.json exists; name another --output"):
        stablehlo_files.export_stablehlo(Path("mine"), tmp_path / "mine.stablehlo")
    with pytest.raises(UserError, match=r"expected a name that ends in \.stablehlo"):
        stablehlo_files.export_stablehlo(Path("mine"), tmp_path / "mine.onnx")
    (tmp_path / "mine.json").unlink()
    monkeypatch.setattr(stablehlo_files, "_differences", lambda *anything: {(20, 24): float("nan")})
    with pytest.raises(UserError, match="the program computes something else"):
        stablehlo_files.export_stablehlo(Path("mine"), tmp_path / "mine.stablehlo")
    monkeypatch.setattr(stablehlo_files, "_MOST_BYTES", 100)
    with pytest.raises(UserError, match="a program holds less than 2; use --format=timm"):
        stablehlo_files.export_stablehlo(Path("mine"), tmp_path / "mine.stablehlo")
    assert list(tmp_path.iterdir()) == []
