"""The pages hold together: links lead somewhere, what the code cites exists, the site and its reference are complete."""

import importlib
import re
from pathlib import Path

import pytest

from tests.test_layers import LAYERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flsl_jax"
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "benchmarks" / "README.md"])
# Whatever may cite a page: code, configs, recipes, pages.
CITING = sorted(
    path
    for folder in ("flsl_jax", "configs", "tests", "benchmarks", "launch", "docs", ".ci", ".github")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix in {".py", ".md", ".sh", ".sbatch", ".html", ".yml", ".yaml", ".ipynb", ""}
) + [path for path in sorted(ROOT.iterdir()) if path.is_file() and path.name != ".git"]


def name_of(path):
    return str(path.relative_to(ROOT))


def without_code(text):
    """A page without its blocks of code, in which a `#` makes no heading and brackets no link."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def headings(page):
    return [found.strip() for found in re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)]


def anchor(heading):
    """The anchor that GitHub makes of a heading, and so does the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def in_one_line(text):
    """Text whose lines, of a comment or a docstring, run on."""
    return re.sub(r"\s*\n[ \t]*#?[ \t]*", " ", text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file, _, fragment = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{link}: no such file"
        assert not fragment or fragment in map(anchor, headings(target)), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_fit_a_screen(page):
    """Tables have long rows, and printed code of other languages is as it is."""
    text = re.sub(r"^ *```(?:python|xml|bibtex)\n.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 128 and not line.startswith("|")] == []


def test_every_citation_names_a_page_and_a_heading_that_exist():
    wrong = []
    for path in CITING:
        text = in_one_line(path.read_text())
        for page, heading in re.findall(r"\bdocs/(\w+\.(?:md|ipynb|png))(?:,? \(?[\"“]?([A-Z].{0,60}))?", text):
            if not (DOCS / page).exists():
                wrong.append(f"{name_of(path)}: there is no docs/{page}")
            elif heading and not any(heading.startswith(known) for known in headings(DOCS / page)):
                wrong.append(f"{name_of(path)}: docs/{page} has no heading {heading!r}")
    assert not wrong, "\n".join(wrong)


def test_nothing_cites_a_document_that_is_not_in_the_repository():
    outside = re.compile(r"\b(?:METHOD|DESIGN|PROTOCOLS|FORMATS|PERFORMANCE|TRANSFER|USERS|ACCELERATORS)(?:\.md)?\b")
    found = [
        f"{name_of(path)}: {line.strip()}"
        for path in CITING
        if path != Path(__file__)
        for line in path.read_text().splitlines()
        if outside.search(line)
    ]
    assert not found, "\n".join(found)


def test_the_site_has_every_page():
    listed = re.findall(r": (\w+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


def test_the_reference_names_what_there_is():
    names = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert "flsl_jax.load" in names
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


MAP = (DOCS / "architecture.md").read_text()


def test_the_map_names_files_and_definitions_that_exist():
    wrong = []
    for file, name in re.findall(r"`((?:\w+/)*\w+\.py)(?::(\w+))?`", MAP):
        path = next((folder / file for folder in (PACKAGE, ROOT) if (folder / file).exists()), None)
        if path is None:
            wrong.append(file)
        elif name and not re.search(rf"^(?:(?:async )?def |class )?{name}\b", path.read_text(), flags=re.MULTILINE):
            wrong.append(f"{file}:{name}")
    folders = re.findall(r"`((?:\w+/)+)`", MAP)
    wrong += [folder for folder in folders if not any((top / folder).is_dir() for top in (PACKAGE, ROOT))]
    assert not wrong, "\n".join(wrong)


def test_the_map_shows_every_package_and_every_module_at_the_top():
    there = {f"{path.name}/" for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    there |= {path.name for path in PACKAGE.glob("*.py") if path.name != "__init__.py"}
    rows = re.findall(r"^\| (`.+?) \|", MAP.split("## The floors")[0], flags=re.MULTILINE)
    shown = set(re.findall(r"`([\w./]+)`", " ".join(rows)))
    assert there - shown == set()


def test_the_floors_are_those_that_imports_are_checked_by():
    block = re.search(r"```text\n(.*?)```", MAP.split("## The floors")[1], flags=re.DOTALL)
    shown = [set(line.split()[1:]) for line in block.group(1).splitlines()]
    assert shown == [names - {"__init__"} for names in reversed(LAYERS)]
