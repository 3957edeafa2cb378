"""The frameworks' own classes, where they can be imported: the converter's comparison with them, and its printed code."""

import dataclasses
import warnings

import numpy as np
import pytest

from flsl_jax.weights.export import parity
from flsl_jax.weights.export.counterparts import open_counterpart
from flsl_jax.weights.export.metadata import snippet_fields
from flsl_jax.weights.layouts import LAYOUTS
from tests.frameworks import import_framework
from tests.weights.conversion import PLAIN, SIZES, assert_equal_outputs, expected, images

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
