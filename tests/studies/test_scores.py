"""Means, spreads and orders of what was measured."""

import json
import statistics

import pytest

from flsl_jax.studies.page import summary, write_study
from flsl_jax.studies.scores import agreements, best, read_scores
from tests.pictures.test_report import Page
from tests.studies.plans import tiny_plan, write_run, write_scores

NAMES = ("K8", "K24", "too-large")


@pytest.fixture
def plan(tmp_path):
    plan = tiny_plan(tmp_path, seeds=(0, 1, 2))
    for cell in plan.cells:
        values = {"K8": (0.5, 0.625, 0.75), "K24": (0.75, None, 1.0), "too-large": (0.625, None, None)}
        value = values[cell.variant.name][cell.seed]
        if value is not None:
            write_run(cell)
            write_scores(cell, trained=value, untrained=0.375, pixels=0.25)
    return plan


def test_means_and_spreads_are_over_the_seeds_that_there_are(plan):
    scores = read_scores(plan)
    assert set(scores) == {"K8", "K24", "too-large", "untrained", "pixels"}
    spread = scores["K8"]["bbox_knn/token"]
    assert (spread.n, spread.mean, spread.std) == (3, 0.625, statistics.stdev([0.5, 0.625, 0.75]))
    assert scores["K24"]["bbox_knn/token"].values == {0: 0.75, 2: 1.0}
    assert scores["untrained"]["bbox_knn/token"].mean == 0.375


def test_the_order_is_compared_over_variants_that_both_have(plan):
    (agreement,) = agreements(plan, read_scores(plan))
    assert (agreement.ours, agreement.paper, agreement.variants) == ("bbox_knn/token", "bbox_knn/token", NAMES)
    # The paper has 0.25, 0.5, 0.125, ours are 0.625, 0.875, 0.625: ranks 2 3 1 and 1.5 3 1.5.
    assert (agreement.ranks.n, agreement.ranks.spearman) == (3, pytest.approx(1.5 / (2 * 1.5) ** 0.5))
    assert agreement.ranks.chance == pytest.approx(1 / 3)


def test_two_variants_have_no_order_and_equal_ones_no_winner(tmp_path):
    plan = tiny_plan(tmp_path)
    for cell in plan.cells[:2]:
        write_run(cell)
        write_scores(cell, trained=0.5)
    scores = read_scores(plan)
    assert [agreement.ranks for agreement in agreements(plan, scores)] == [None]
    assert best(plan, scores, "bbox_knn/token") == []


def test_the_page_and_its_json_say_all_of_it_and_what_is_missing(plan):
    path = write_study(plan, command="python -m flsl_jax.study --study=x")
    text = path.read_text()
    assert all(source.startswith("data:image/") for source in Page(text).sources)
    for words in ("Widths &amp; things", "K = &lt;24&gt;", "<td class=\"number\">0.625 ± 0.125</td>", "0.875 ± 0.177 (2 of 3)",
                  "missing", "<td class=\"number\">0.500</td>", "untrained network", "6 of 9 runs done", "n = 3 variants",
                  "ρ = +0.87", "probability of 0.33.", "<td class=\"number\">0.151</td>", "batch_size=<wbr>64",
                  "--study=x", "Not measured here: discovery/corloc."):  # fmt: skip
        assert words in text, words
    values = json.loads((path.parent / "study.json").read_text())
    assert values["variants"][0]["metrics"]["bbox_knn/token"]["seeds"] == {"0": 0.5, "1": 0.625, "2": 0.75}
    assert values["variants"][2]["metrics"]["bbox_knn/token"]["std"] is None
    assert values["rank_agreement"][0]["ranks"]["kendall"] == pytest.approx(2 / 6**0.5)
    assert [run["state"] for run in values["runs"]].count("done") == 6
    said = summary(plan)
    assert "0.875 ± 0.177 (2 of 3)   paper 0.500" in said
    assert "Largest difference: 0.250; over the seeds of a variant ± 0.151 on average" in said


def test_a_page_before_the_first_run_marks_everything_as_missing(tmp_path):
    plan = tiny_plan(tmp_path)
    text = write_study(plan, command="x").read_text()
    assert text.count("missing") == 3
    assert "nothing to compare, n = 0" in text
