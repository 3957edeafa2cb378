"""Imports point down only and never in a circle, files and functions stay short, light packages stay light."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flsl_jax"
# From the bottom up: a module imports from the layers below its own and from its own package.
LAYERS = (
    {"typing", "errors", "host_memory", "keyboard", "_version"},
    {"command_line"},
    {"schedules", "objective"},
    {"config"},
    {"parallel", "processes", "data", "models"},
    {"networks", "checkpoints", "workdir", "features"},
    {"weights"},
    {"evaluation"},
    {"pictures", "embedding"},
    {"training"},
    {"loop", "album"},
    {"studies", "transfer", "doctor"},
    {"convert", "main", "evaluate", "prepare", "visualize", "study", "embed", "api"},
    {"cli", "__init__"},
    {"__main__"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}


def imported_parts(path):
    """The parts of flsl_jax that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flsl_jax":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("flsl_jax.")]
        else:
            continue
        yield from names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    upward = {part for part in imported_parts(path) if part != own and LAYER_OF[part] >= LAYER_OF[own]}
    assert not upward, f"{own} is in layer {LAYER_OF[own]} and imports {upward}"


# Of `data`, from the bottom up; the files beside them lie between the first and the second.
DATA_ROOMS = ("images", "loading", "sources", "truth")


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "data").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_between_the_rooms_of_data_point_down(path):
    order = {room: number for number, room in enumerate((DATA_ROOMS[0], "", *DATA_ROOMS[1:]))}
    imported = re.findall(r"(?m)^\s*from flsl_jax\.data\.(\w+)(?:\.\w+)? import", path.read_text())
    own = order.get(path.parent.name, order[""])
    upward = {name for name in imported if order.get(name, order[""]) > own}
    assert not upward, f"{path.name} imports from {upward}"


def imported_files(path):
    """The files of flsl_jax that a file imports when it is loaded itself; imports inside functions come later."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flsl_jax":
            folder = ROOT.joinpath(*node.module.split("."))
            names = [folder / alias.name for alias in node.names] + [folder]
            yield from (name.with_suffix(".py") for name in names if name.with_suffix(".py").exists())


def test_no_imports_in_a_circle():
    graph = {path: set(imported_files(path)) for path in PACKAGE.rglob("*.py")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(str(path.relative_to(PACKAGE)) for path in reversed(error.args[1])))
    assert any(graph.values())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert not {name: lines for name, lines in long.items() if lines > 60}


def test_configs_import_nothing_of_the_package():
    for path in (ROOT / "configs").rglob("*.py"):
        assert not list(imported_parts(path)), path


def test_importing_the_package_imports_no_heavy_library():
    code = (
        "import flsl_jax, sys; print([name for name in ('jax', 'torch', 'tensorflow', 'grain') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_two_test_files_have_one_name():
    """The folders in tests are no packages, so pytest refuses the second file of a name in them."""
    names = [path.name for path in (ROOT / "tests").glob("*/**/test_*.py")]
    assert sorted(names) == sorted(set(names))
