"""Metrics in words: one order, the paper's numbers as shares, and names that the configs spell right."""

from pathlib import Path

import pytest

from flsl_jax.config.files import load_config
from flsl_jax.errors import UserError
from flsl_jax.transfer.config import parse_transfer_config
from flsl_jax.transfer.judging.metrics import BRIEF, WORDS, MetricRow, metric_rows

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "transfer").glob("*.py"))


def config_of(**changes):
    return parse_transfer_config(load_config("transfer/base").to_dict() | changes)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem != "__init__"], ids=lambda path: path.stem)
def test_the_papers_numbers_of_a_config_are_of_metrics_that_have_words(path):
    config = parse_transfer_config(load_config(f"transfer/{path.stem}").to_dict())
    assert set(config.paper_numbers.metrics) <= set(WORDS)
    assert not config.paper_numbers.metrics or config.main_metric in config.paper_numbers.metrics


def test_rows_have_one_order_and_what_only_the_paper_or_only_the_run_has():
    numbers = {"metrics": ("mask_ap", "box_ap"), "flsl": (40.8, 44.9), "dino": (37.3, 0.0)}
    metrics = {"new": 0.5, "box_ap50": 0.25, "box_ap": 0.125}
    assert list(metric_rows(config_of(paper_numbers=numbers), metrics)) == [
        MetricRow("box_ap", "box AP", 0.125, 44.9 / 100, None),
        MetricRow("box_ap50", "box AP at IoU 0.5", 0.25, None, None),
        MetricRow("mask_ap", "mask AP", None, 40.8 / 100, 37.3 / 100),
        MetricRow("new", "new", 0.5, None, None),
    ]


def test_numbers_that_do_not_fit_together_are_refused_and_the_sentence_of_older_runs_is_read():
    with pytest.raises(UserError, match=r"config.paper_numbers has tuples of different lengths"):
        config_of(paper_numbers={"metrics": ("miou",), "flsl": (1.0,), "dino": ()})
    older = {name: value for name, value in load_config("transfer/base").to_dict().items() if name != "paper_numbers"}
    assert parse_transfer_config(older | {"paper": "mIoU 42.9 %"}).paper_numbers.metrics == ()


def test_what_the_terminal_names_has_words():
    assert set(BRIEF) <= set(WORDS)
