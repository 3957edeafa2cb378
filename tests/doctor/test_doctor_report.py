"""What people and programs read."""

import json

from flsl_jax import __version__
from flsl_jax.doctor.finding import Finding
from flsl_jax.doctor.report import TextReport, as_json, last_line

FINDINGS = [
    Finding(name="machine/python", colour="green", found="3.11"),
    Finding(name="machine/memory", colour="yellow", found="little " * 12, advice="end other programs " * 5),
    Finding(name="data/images", colour="red", found="grün ist keins", advice="name a folder"),
]


def test_groups_have_a_heading_and_lines_fit_the_width():
    report = TextReport(width=60, coloured=False)
    text = "".join(report.lines(finding) for finding in FINDINGS)
    lines = text.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["machine", "data"]
    assert max(map(len, lines)) <= 60
    assert "  green   python          3.11" in lines
    assert text.count("→") == 2
    assert "\033" not in text


def test_a_terminal_shows_the_word_in_its_colour():
    text = TextReport(width=80, coloured=True).lines(FINDINGS[2])
    assert "\033[31mred   \033[0m  images" in text


def test_the_last_line_counts_and_says_what_it_means():
    assert last_line(FINDINGS, worst="red") == (
        "1 green, 1 yellow, 1 red: a training would not start or would fail; mend the red lines first"
    )


def test_json_has_all_that_the_text_has():
    values = json.loads(as_json(FINDINGS, worst="red"))
    assert (values["version"], values["worst"]) == (__version__, "red")
    assert values["findings"][0] == {"name": "machine/python", "colour": "green", "found": "3.11", "advice": ""}
    assert [finding["advice"] for finding in values["findings"]] == [finding.advice for finding in FINDINGS]
