"""The frameworks' own classes, where they can be imported: the converter's comparison with them, and its printed code."""

import dataclasses
import importlib.util
import sys
import types
import warnings

import numpy as np
import pytest

from flsl_jax.models import Architecture
from flsl_jax.weights.export import counterparts, parity
from flsl_jax.weights.export.counterparts import open_counterpart
from flsl_jax.weights.export.metadata import snippet_fields
from flsl_jax.weights.layouts import LAYOUTS
from tests.frameworks import import_framework
from tests.weights.conversion import PLAIN, SIZES, assert_equal_outputs, expected, images

PLAIN_ARCHITECTURE = Architecture(
    patch_size=8, width=32, depth=1, num_heads=2, grid=(4, 4), pos_resize="bicubic_antialias"
)
MODULES = {
    "flsl": "vision_transformer",
    "dino": "vision_transformer",
    "timm": "timm",
    "detectron2": "detectron2.modeling.backbone.vit",
    "mmdet-vitdet": "projects.ViTDet.vitdet",
    "mmseg": "mmseg.models.backbones.vit",
    "mmpretrain": "mmpretrain.models.backbones.vision_transformer",
    "transformers": "transformers",
    "transformers-vitdet": "transformers",
}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in ("flsl", "dino")])
def test_equals_the_real_class_of_the_library_with_nothing_missing(name, trained, converted):
    import_framework(MODULES[name])
    report = converted(name)
    assert report.parities["teacher"].holds
    fields = snippet_fields(trained)
    counterpart = open_counterpart(
        report.path, name=name, network="teacher", architecture=trained.architecture, fields=fields
    )
    assert counterpart.name.startswith(name.split("-")[0])
    changes = {"pos_resize": LAYOUTS[name].pos_resize, "final_norm": LAYOUTS[name].final_norm}
    for size in SIZES:
        found = counterpart.run(images(size))
        assert_equal_outputs([*found.blocks, found.tokens], expected(trained, size, **changes))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        (name, suffix)
        for name in PLAIN
        for suffix in (".pth", ".safetensors")
        if LAYOUTS[name].kind == "file" or suffix != ".pth"
    ],
)
def test_the_printed_snippet_gives_the_tokens_where_its_framework_is_installed(name, suffix, trained, converted):
    framework = import_framework(MODULES[name])
    if hasattr(framework, "make_vit_noclass") != (name == "flsl"):
        pytest.skip(f"{framework.__file__} is another project's")
    import torch

    snippet = converted(name, suffix).snippet
    layout = LAYOUTS[name]
    for size in SIZES:
        names = {"images": torch.tensor(images(size)).permute(0, 3, 1, 2)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # detectron2's imports of timm
            exec(snippet, names)
        wanted = expected(trained, size, final_norm=layout.final_norm, pos_resize=layout.pos_resize)[-1]
        np.testing.assert_allclose(names["tokens"].detach().numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_trap_another_number_of_heads_loads_and_the_comparison_sees_it(trained, converted):
    pytest.importorskip("torch")
    report = converted("flsl", ".pth")
    assert "num_heads=4" in report.snippet
    arch = dataclasses.replace(trained.architecture, pos_resize="bicubic_dino")
    eight = dataclasses.replace(arch, num_heads=8)
    ours, theirs = (
        parity.forward(trained.backbones["teacher"], arch),
        open_counterpart(
            report.path, name="flsl", network="teacher", architecture=eight, fields=snippet_fields(trained)
        ),
    )
    x = images((224, 224))
    assert np.abs(ours(x).tokens - theirs.run(x).tokens).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "package", "code", "expected"),
    [
        ("timm", "timm", "import timm_needs_this", "(ModuleNotFoundError: No module named 'timm_needs_this')"),
        (
            "timm",
            "timm",
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "(RuntimeError: operator torch",
        ),
        (
            "transformers-vitdet",
            "transformers",
            "raise ValueError('numpy.dtype size changed')",
            "(ValueError: numpy.dtype",
        ),
        ("mmseg", "mmseg", "assert False, 'mmcv is too new'", "(AssertionError: mmcv is too new)"),
        ("mmpretrain", "mmpretrain", "", "(ModuleNotFoundError: No module named 'mmpretrain.models')"),
        ("timm", "another", "", ""),
    ],
)
def test_a_framework_that_is_installed_and_broken_is_named_and_the_twin_stands_in(
    name, package, code, expected, tmp_path, monkeypatch, caplog
):
    if package == "another" and importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    twin = counterparts.Counterpart(name="the twin", run=lambda images: counterparts.Outputs(blocks=[], tokens=images))
    monkeypatch.setattr(counterparts, "_open_twin", lambda *arguments: twin)
    opened = open_counterpart(
        tmp_path / "file", name=name, network="teacher", architecture=PLAIN_ARCHITECTURE, fields={}
    )
    assert opened is twin
    assert len(caplog.messages) == bool(expected)
    if expected:
        assert caplog.messages[0].startswith(f"{package} is installed but cannot be used {expected}")
