"""What messages and pages say to install exists: extras of this package, and packages that it knows."""

import configparser
import re
from pathlib import Path

import pytest

from flsl_jax._version import __version__

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
EXTRAS = dict(SETUP["options.extras_require"])
# Programs beside this one that a page says how to get.
BESIDE = {"tensorboard", "mlflow", "pre-commit"}
PLACES = sorted(
    path
    for pattern in ("*.md", "Makefile", "flsl_jax/**/*.py", "configs/**/*.py", "docs/*.md", "docs/*.ipynb", "launch/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
)


def requirements(lines):
    return {re.split(r"[\[<>=; ]", line.strip())[0] for line in lines.splitlines() if line.strip()}


KNOWN = requirements(SETUP["options"]["install_requires"]).union(BESIDE, *map(requirements, EXTRAS.values()))


def hints(text):
    """What follows each `pip install`, up to the end of the command: its words without options and their values."""
    for command in re.findall(r"\bpip install ([^`;,)#\n]+)", text):
        words = re.sub(r"(?:^|\s)-[cr] \S+|(?:^|\s)--?[\w-]+", " ", command).split()
        yield next((word for word in words if not word.startswith("-")), "")


def test_hints_are_found():
    assert list(hints("`pip install -c requirements.txt -e '.[cuda]'`")) == ["'.[cuda]'"]
    assert list(hints("; pip install torch, or save")) == ["torch"]
    assert "wandb" in EXTRAS
    assert {"torch", "wandb", "mlflow-skinny", "jax"} <= KNOWN


@pytest.mark.parametrize("path", PLACES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_to_be_installed_exists(path):
    text = path.read_text()
    for extra in re.findall(r"['\"](?:\.|PATH_OF_THE_CHECKOUT)\[([a-z0-9]+)\]", text):
        assert extra in EXTRAS, f"setup.cfg has no extra {extra}"
    assert "flsl_jax[" not in re.sub(r"flsl_jax\[\d", "", text), (
        "no index has flsl_jax: name the package that is missing"
    )
    for word in hints(text):
        name = word.strip("'\"")
        if not name or name.startswith((".", "/", "PATH", "$", "\\")):
            continue
        assert re.split(r"[\[<>=]", name)[0] in KNOWN, (
            f"{word!r} is neither a requirement of this package nor known beside it"
        )


def test_the_version_to_cite_is_the_packages():
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{__version__}}}" in (ROOT / "README.md").read_text()
