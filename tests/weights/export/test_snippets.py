"""Printed code: the docs show what the converter prints, and its calls are those of a strict load."""

import ast
from pathlib import Path

import pytest

from flsl_jax.models import Architecture
from flsl_jax.weights.export.metadata import snippet_fields
from flsl_jax.weights.export.snippets import load_snippet
from flsl_jax.weights.export.trained import Trained
from flsl_jax.weights.layouts import LAYOUTS

DOCS = Path(__file__).parents[3] / "docs" / "weights.md"
ARCHITECTURE = Architecture(patch_size=16, width=384, depth=12, num_heads=6)
FIELDS = snippet_fields(Trained(architecture=ARCHITECTURE, backbones={}, heads={}, source="vits16"))


def documented():
    """The snippet of every format for a ViT-S/16."""
    names = {
        name: f"vits16_{name}" if layout.kind == "folder" else f"vits16_{name}.pth" for name, layout in LAYOUTS.items()
    }
    return {name: load_snippet(name, path=Path(path), network="teacher", fields=FIELDS) for name, path in names.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_docs_show_what_is_printed(name):
    assert f"### {name}\n\n```python\n{documented()[name]}```" in DOCS.read_text()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_snippet_names_any_path(name):
    path = Path('a "b"\\$c/é.pth')
    snippet = load_snippet(name, path=path, network="teacher", fields=FIELDS)
    found = [node.value for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Constant)]
    assert any(isinstance(value, str) and value.removeprefix("local-dir:") == str(path) for value in found)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_snippet_is_python_and_loads_strictly(name):
    snippet = documented()[name]
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
