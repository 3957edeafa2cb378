"""`study.html` and `study.json`: the table beside the paper's, plots, pictures, curves and runs of a study on one page."""

import datetime
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from flsl_jax.album import narrow_path
from flsl_jax.config import to_dict
from flsl_jax.pictures.curves import compare_curves
from flsl_jax.pictures.kinds import KINDS
from flsl_jax.pictures.page import Section, escape, figure, table, write_page
from flsl_jax.pictures.runs import Run
from flsl_jax.studies.grid import Cell, Plan
from flsl_jax.studies.maps import brightness, brightness_order, sheet_path
from flsl_jax.studies.plots import save_plots
from flsl_jax.studies.progress import finished_step, state, write_json
from flsl_jax.studies.scores import (
    Agreement,
    Scores,
    Spread,
    agreements,
    as_json,
    best,
    differences,
    paper_metrics,
    read_scores,
)
from flsl_jax.studies.scores import shown_metrics as metrics_of
from flsl_jax.training.watching.history import read_run
from flsl_jax.workdir import METRICS_FILE, read_metrics

PAGE_FILE, JSON_FILE = "study.html", "study.json"
_KIND_NAMES = {"untrained": "untrained network", "pixels": "raw pixels"}


def write_study(plan: Plan, *, command: str) -> Path:
    """Writes the page and the JSON file with what there is so far; returns the page's path.

    Args:
        plan: of the study.
        command: what goes on with the study, to be shown.

    Raises:
        UserError: they cannot be written.
    """
    scores = read_scores(plan)
    runs = {cell.name: _run(cell) for cell in plan.cells if finished_step(cell)}
    states = [state(cell) for cell in plan.cells]
    done = states.count("done")
    page = plan.workdir / PAGE_FILE
    write_page(
        page,
        title=plan.study.title,
        subtitle=f"{done} of {len(plan.cells)} runs done, as of {datetime.datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        sections=[
            Section("Question", f"<p>{escape(plan.study.question)}</p>\n"),
            Section("Results", _results(plan, scores)),
            Section("Differences and order", _order(plan, scores)),
            Section("Maps", _maps(plan)),
            Section("Training", _training(plan)),
            Section("Runs", _runs(plan, runs)),
            Section("How", _how(plan, command)),
        ],
        flag="--workdir",
    )
    write_json(plan.workdir / JSON_FILE, as_json(plan, scores, command=command))
    return page


def summary(plan: Plan) -> str:
    """The table of the first metric for the terminal, and the agreement of the orders."""
    scores = read_scores(plan)
    metric = plan.study.metrics[0]
    lines = [f"{plan.study.title}: {metric}"]
    width = max(len(variant.name) for variant in plan.study.variants)
    for variant in plan.study.variants:
        spread = scores.get(variant.name, {}).get(metric)
        paper = f"   paper {variant.paper[metric]:.3f}" if metric in variant.paper else ""
        lines.append(f"  {variant.name.ljust(width)}  {_plain(spread, seeds=len(plan.seeds))}{paper}")
    if (difference := differences(plan, scores, metric)) is not None:
        noise = "" if difference.std is None else f"; over the seeds of a variant ± {difference.std:.3f} on average"
        lines.append(f"Largest difference: {difference.span:.3f}{noise}")
    lines += [_agreement_words(found) for found in agreements(plan, scores) if found.ours == metric]
    return "\n".join(lines)


def _results(plan: Plan, scores: Scores) -> str:
    """The table of all variants and baselines, and the plots."""
    metrics, papers = metrics_of(plan, scores), paper_metrics(plan)
    settings = any(variant.setting for variant in plan.study.variants)
    winners = {metric: best(plan, scores, metric) for metric in metrics}
    head = ["variant", *(["in the paper"] if settings else []), *map(escape, metrics)]
    head += [f"the paper: {escape(metric)}" for metric in papers]

    def row(name: str, shown: str, *, setting: str, paper: Mapping[str, float]) -> list[str]:
        found, seeds = scores.get(name, {}), len(plan.seeds)
        cells = [_cell(found, metric, seeds=seeds, bold=name in winners[metric]) for metric in metrics]
        of_paper = [f"{paper[metric]:.3f}" if metric in paper else "–" for metric in papers]
        return [escape(shown), *([escape(setting)] if settings else []), *cells, *of_paper]

    rows = [
        row(variant.name, variant.name, setting=variant.setting, paper=variant.paper) for variant in plan.study.variants
    ]
    rows += [row(kind, _KIND_NAMES[kind], setting="", paper={}) for kind in plan.study.baselines if kind in scores]
    seeds = ", ".join(map(str, plan.seeds))
    caption = (
        f"Means over the seeds {seeds}, ± the standard deviation; in brackets how many seeds there are where some are missing; "
        "bold: the largest mean of the variants."
        if len(plan.seeds) > 1
        else f"One seed ({seeds}): the table cannot say how much chance there is in a difference. Bold: the largest value."
    )
    reference = f"<p>Numbers of the paper: {escape(plan.study.reference)}.</p>\n" if plan.study.reference else ""
    absent = [metric for metric in plan.study.metrics if metric not in metrics]
    note = f'<p class="soft">Not measured here: {escape(", ".join(absent))}.</p>\n' if absent else ""
    return table(rows, head=head, caption=caption, numbers=True) + note + reference + _plots(plan, scores)


def _cell(metrics: Mapping[str, Spread], metric: str, *, seeds: int, bold: bool) -> str:
    task = metric.partition("/")[0]
    if metric not in metrics and any(name.startswith(f"{task}/") for name in metrics):
        return "–"  # such as modes of raw pixels
    text = _plain(metrics.get(metric), seeds=seeds)
    return f"<strong>{text}</strong>" if bold else text


def _plain(spread: Spread | None, *, seeds: int) -> str:
    """The mean, the spread where there are several, and how many of the `seeds` there are where some are missing."""
    if spread is None:
        return "missing"
    std = "" if spread.std is None else f" ± {spread.std:.3f}"
    return f"{spread.mean:.3f}{std}" + (f" ({spread.n} of {seeds})" if spread.n < seeds else "")


def _plots(plan: Plan, scores: Scores) -> str:
    if not scores:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        drawn, narrow = Path(folder) / "plots.svg", Path(folder) / "narrow.svg"
        save_plots(drawn, plan, scores)
        save_plots(narrow, plan, scores, columns=1)
        caption = (
            "Ours: means with bars of one standard deviation and a dot for each seed; horizontal lines: baselines."
        )
        return figure(drawn, caption, wide=True, narrow=narrow)


def _order(plan: Plan, scores: Scores) -> str:
    """How large the differences are beside the spread over seeds, and how well our order agrees with the paper's."""
    rows = []
    for metric in metrics_of(plan, scores):
        difference = differences(plan, scores, metric)
        if difference is not None:
            noise = "one seed" if difference.std is None else f"{difference.std:.3f}"
            rows.append((escape(metric), f"{difference.span:.3f}", noise))
    text = "<p>How far the variants' means lie apart, and the standard deviation of a variant over its seeds, on average:</p>\n"
    sizes = text + table(rows, head=("", "largest difference", "over seeds"), numbers=True) if rows else ""
    found = agreements(plan, scores)
    return sizes + "".join(f"<p>{escape(_agreement_words(agreement))}</p>\n" for agreement in found)


def _agreement_words(agreement: Agreement) -> str:
    what = f"Order by {agreement.ours} against the paper's by {agreement.paper}"
    ranks, n = agreement.ranks, len(agreement.variants)
    if ranks is None:
        return f"{what}: nothing to compare, n = {n}; three variants that are not all equal on a side are needed."
    words = f"{what}, n = {n} variants: Spearman's ρ = {ranks.spearman:+.2f}, Kendall's τ = {ranks.kendall:+.2f}"
    if ranks.chance is None:
        return f"{words}."
    return f"{words}; a random order has this ρ or a larger one with a probability of {ranks.chance:.2g}."


def _maps(plan: Plan) -> str:
    """The sheet of all variants and, with columns by υ/η, how bright the maps are."""
    path = sheet_path(plan)
    if not path.exists():
        return ""
    with Image.open(path) as picture:
        caption = f"{KINDS[plan.study.picture].shows}, seed {plan.seeds[0]}"
        narrow = narrow_path(path)
        drawn = figure(path, caption, width=picture.width, narrow=narrow if narrow.exists() else None)
    measured, seeds = brightness(plan), len(plan.seeds)
    rows = [(escape(name), _plain(spread, seeds=seeds)) for name, spread in measured.items()]
    ranks = brightness_order(plan)
    words = (
        f"<p>Order by υ/η against that by brightness, n = {ranks.n} variants: Spearman's ρ = {ranks.spearman:+.2f}, over a "
        f"largest difference of {_span(measured):.2g}. In the paper the maps grow darker with υ/η: ρ is negative.</p>\n"
        if ranks is not None
        else ""
    )
    caption = "Brightness: the mean of the maps of 32 images."
    return (
        f'<div class="pictures">{drawn}</div>\n' + (table(rows, caption=caption, numbers=True) if rows else "") + words
    )


def _span(spreads: Mapping[str, Spread]) -> float:
    means = [spread.mean for spread in spreads.values()]
    return max(means) - min(means)


def _training(plan: Plan) -> str:
    """The curves of the first seed's runs in one figure."""
    first = [cell for cell in plan.cells if cell.seed == plan.seeds[0]]
    metrics = {cell.name: read_metrics(cell.folder / METRICS_FILE) for cell in first}
    metrics = {name: lines for name, lines in metrics.items() if lines}
    if not metrics:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        drawn, narrow = Path(folder) / "curves.svg", Path(folder) / "narrow.svg"
        compare_curves(metrics, drawn)
        compare_curves(metrics, narrow, columns=1)
        return figure(drawn, f"Training of the runs with seed {plan.seeds[0]}.", wide=True, narrow=narrow)


def _no_alarm(run: Run | None) -> str:
    if run is None:
        return "–"
    return "none" if run.alarms_possible else "not possible yet"


def _run(cell: Cell) -> Run:
    step = finished_step(cell)
    assert step is not None
    return read_run(cell.config, workdir=cell.folder, step=step, results=None)


def _runs(plan: Plan, runs: Mapping[str, Run]) -> str:
    head = ("run", "what it changes", "state", "steps", "minutes of steps", "alarms")
    rows = []
    for cell in plan.cells:
        run = runs.get(cell.name)
        alarms = ", ".join(dict.fromkeys(alarm.name for alarm in run.alarms)) if run else ""
        seconds = run.training_seconds if run else None
        rows.append(
            [
                escape(cell.name), escape(plan.shown_changes(cell.variant)), state(cell), f"{run.step:,}" if run else "–",
                "–" if seconds is None else f"{seconds / 60:.1f}", escape(alarms or _no_alarm(run)),
            ]
        )  # fmt: skip
    return table(rows, head=head)


def _how(plan: Plan, command: str) -> str:
    def details(title: str, values: Any) -> str:
        text = escape(json.dumps(values, indent=2, ensure_ascii=False))
        return f"<details><summary>{title}</summary><pre>{text}</pre></details>\n"

    base = to_dict(plan.base)
    return (
        f"<p>This command goes on with the study, and writes this page again:</p><pre>{escape(command)}</pre>\n"
        + details("Every key of the base config", {key: value for key, value in base.items() if key != "evaluation"})
        + details("Every parameter of the evaluations", {task: base["evaluation"][task] for task in plan.tasks})
    )
