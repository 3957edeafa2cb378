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


def in_one_line(page):
    return " ".join((ROOT / page).read_text().split())


def test_prose_repeats_the_numbers_of_the_tables():
    plan, launch = in_one_line("docs/planning.md"), in_one_line("docs/launch.md")
    measured, configs = planning.MEASURED, {name: planning.config_of(name) for name in planning.MEASURED}
    shares = [
        row.rate * cost.step_flops_per_image(configs[name]) / cost.peak_flops("NVIDIA H200")
        for name, row in measured.items()
    ]
    assert "({:.1%} for S/16, {:.1%} for S/8, {:.1%} for B/16)".format(*shares).replace("%", " %") in plan
    hours = configs["vits16"].epochs * 1_281_167 / measured["vits16"].rate / 8 / 3600
    assert (
        plan.count(f"At {measured['vits16'].rate:,} images/s a GPU, as one H200 had with 64 images, {hours:.1f} hours")
        == 1
    )
    small, large = (20 * planning.parameters(configs[name]) / 2**30 for name in ("vits16", "vitb16"))
    assert f"With gradients they are {small:.1f} GiB for S and {large:.1f} GiB for B" in plan
    assert f"With gradients that is {large:.1f} GiB for a ViT-B" in launch
    memory = [f"{measured[name].peak} instead of {measured[name].plain}" for name in ("vits16", "vits8")]
    assert f"in {memory[0]} and {memory[1]} GiB" in launch


def test_what_pages_say_of_micro_batches_is_what_the_estimates_are():
    assert "in about a third of the memory" in in_one_line("README.md")
    for row in planning.costs().splitlines()[2:5]:
        whole, parts = (float(cell.removesuffix(" GiB ")) for cell in row.split("|")[6:8])
        assert 0.25 < parts / whole < 0.42, row


def test_points_that_the_sharp_quickstart_gained_are_those_of_the_pages_with_its_numbers():
    rows = re.findall(r"^\| (\d) \| (.*) \|$", (ROOT / "docs" / "second_stage.md").read_text(), flags=re.MULTILINE)
    numbers = [[float(cell.removesuffix(" %")) for cell in row.split(" | ")] for _, row in rows]
    without = [row[1] - row[0] for row in numbers]
    with_place = [row[3] - row[0] for row in numbers]
    spans = [f"{min(gains):.0f} to {max(gains):.0f}" for gains in (without, with_place)]
    assert f"{spans[0]} points without it instead of {spans[1]}" in in_one_line("docs/quickstart.md")


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
