"""Printed code: the docs show what the converter prints, and its calls are those of a strict load."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.weights.export.metadata import snippet_fields
from flsl_jax.weights.export.snippets import load_snippet
from flsl_jax.weights.export.trained import Trained
from flsl_jax.weights.layouts import LAYOUTS
from tests.weights.conversion import vit_small

DOCS = Path(__file__).parents[3] / "docs" / "weights.md"


def printed(name, path):
    """The snippet of a format for its ViT-S."""
    trained = Trained(architecture=vit_small(name), backbones={}, heads={}, source="vits")
    return load_snippet(name, path=path, network="teacher", fields=snippet_fields(trained))


def documented(name):
    """The snippet of a format as the docs show it."""
    file = f"vits{vit_small(name).patch_size}_{name}"
    return printed(name, Path(file if LAYOUTS[name].kind == "folder" else f"{file}.pth"))


@pytest.mark.parametrize("name", LAYOUTS)
def test_docs_show_what_is_printed(name):
    assert f"### {name}\n\n```python\n{documented(name)}```" in DOCS.read_text()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_snippet_names_any_path(name):
    path = Path('a "b"\\$c/é.pth')
    snippet = printed(name, path)
    found = [node.value for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Constant)]
    assert any(isinstance(value, str) and value.removeprefix("local-dir:") == str(path) for value in found)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_snippet_is_python_and_loads_strictly(name):
    snippet = documented(name)
    tree = ast.parse(snippet)
    assert "$" not in snippet
    called = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    if LAYOUTS[name].kind == "file":
        assert "model.load_state_dict(state, strict=True)" in snippet
        assert "num_heads=6" in snippet
    else:
        assert called & {"create_model", "from_pretrained"}
    assert "eval" in called
    last = tree.body[-1]
    assert isinstance(last, ast.Assign)
    assert last.targets[0].id == "tokens"


def test_the_documented_code_reads_a_photo_of_any_shape(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg", "PNG")
    (code,) = re.findall(r"```python\n(import numpy[^`]*read_image[^`]*)```", DOCS.read_text())
    values = {}
    exec(code, values)
    assert values["images"].dtype == torch.float32
    expected = (pixels[:32, :48] / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(values["images"].numpy(), expected.transpose(2, 0, 1)[None], atol=1e-6)
