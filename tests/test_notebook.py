"""The notebook of the docs runs from top to bottom, and is kept without its results."""

import json
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
TINY = str(Path(__file__).parent / "tiny.py")
BOOK = json.loads((DOCS / "tour.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]
TEXT = "\n".join("".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "markdown")


def test_it_is_kept_without_results():
    cells = [cell for cell in BOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    assert {cell["execution_count"] for cell in cells} == {None}


def test_its_links_lead_to_pages():
    links = re.findall(r"\]\((\w+\.md)\)", TEXT)
    assert len(links) > 3
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.fixture
def without_windows():
    backend = mpl.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


def test_its_cells_run_one_after_the_other(monkeypatch, tmp_path, without_windows):
    """With two steps of a tiny network, which other tests compile too, instead of a minute; all else as it stands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "\0".join(CODE)
    for there, instead in (("STEPS = 120", "STEPS = 2"), ('get_config("quickstart")', f"get_config({TINY!r})")):
        assert code.count(there) == 1
        code = code.replace(there, instead)
    names: dict[str, object] = {}
    for number, cell in enumerate(code.split("\0")):
        exec(compile(cell, f"cell {number}", "exec"), names)
    assert names["outcome"].step == 2
    grids, colours = names["tokens"]["trained"], names["colours"]["trained"]
    assert grids.shape == (6, 16, 16, 32)
    assert not np.array_equal(grids, names["tokens"]["untrained"])
    assert colours.shape == (6, 16, 16, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    middle = names["middle"]
    np.testing.assert_allclose([cosines[middle, middle] for cosines in names["similarity"]], 1, atol=1e-5)
    # A figure for each of the maps, the colours and the modes.
    assert len(plt.get_fignums()) == 3
