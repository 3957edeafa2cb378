"""The pages hold together: links lead somewhere, what the code cites exists, the site and its reference are complete."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
