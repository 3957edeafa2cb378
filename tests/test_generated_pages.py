"""What of the pages is generated is what would be generated now."""

import dataclasses
import importlib
import re
import typing

import pytest

from configs import quickstart as quickstart_config
from docs.generate import planning, quickstart
from docs.generate.blocks import replaced
from docs.generate.pages import PAGES, ROOT, rendered
from flsl_jax.config import Config
from flsl_jax.config.files import config_names
from flsl_jax.errors import UserError
from flsl_jax.training import cost


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page):
    assert (ROOT / page).read_text() == rendered(page), f"run `make pages` to write {page} anew"


def keys(kind, path):
    for name, hint in typing.get_type_hints(kind).items():
        yield f"{path}.{name}"
        if dataclasses.is_dataclass(hint):
            yield from keys(hint, f"{path}.{name}")


def test_every_key_has_its_row_in_the_section_of_its_group():
    page = (ROOT / "docs" / "config.md").read_text()
    sections = {part.split("`")[1]: part for part in page.split("\n## `")[1:] for part in [f"`{part}"]}
    shared = page.split("\n## Schedules")[1]
    for key in keys(Config, "config"):
        group, _, name = key.rpartition(".")
        assert f"\n| `{name}` | " in sections.get(group, shared), key


def test_a_block_is_replaced_and_nothing_else():
    page = "a\n<!-- generated: x -->\nold\n<!-- end: x -->\nb\n"
    assert replaced(page, "x", "new\n") == "a\n<!-- generated: x -->\n\nnew\n\n<!-- end: x -->\nb\n"
    assert replaced(replaced(page, "x", "new"), "x", "new") == replaced(page, "x", "new")
    with pytest.raises(UserError, match="one block 'y'"):
        replaced(page, "y", "new")


@pytest.mark.parametrize("name", planning.MEASURED)
def test_what_planning_calls_measured_is_in_the_record_of_measurements(name):
    measured = planning.MEASURED[name]
    record = (ROOT / "benchmarks" / "README.md").read_text()
    title = {"vits16": "S/16", "vits8": "S/8", "vitb16": "B/16"}[name]
    table = record.split(f"| {title}, {measured.batch} images a step |")[1].split("\n\n")[0]
    fastest, plain = (
        next(row for row in table.splitlines() if row.startswith(f"| {words}")) for words in ("cu", "our attention, u")
    )
    assert f"**{measured.rate}**" in fastest
    assert f" {measured.peak} GiB" in fastest
    assert f" {measured.plain} GiB" in plain


@pytest.mark.parametrize("name", config_names())
def test_docstrings_of_configs_say_what_the_start_of_a_run_prints(name):
    told = " ".join(importlib.import_module(f"configs.{name}").__doc__.split())
    config = planning.config_of(name)
    for number in re.findall(r"([\d.]+) GFLOP an image", told):
        decimals = len(number.partition(".")[2])
        assert number == f"{cost.step_flops_per_image(config) / 1e9:.{decimals}f}"
    for number in re.findall(r"about (\d+) GiB", told):
        assert number == f"{planning.memory_gib(config):.0f}"


def test_the_quickstart_config_says_what_was_measured_of_it():
    told = " ".join(quickstart_config.__doc__.split())
    for words in quickstart.expected():
        assert words in told
    assert quickstart_config.TWIN[1:] == quickstart.twin()
