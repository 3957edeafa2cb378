"""Plots of a study: each metric by variant, ours with error bars, and the paper's numbers beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.pictures.curves import grid_of_panels
from flsl_jax.pictures.panels import OKABE_ITO
from flsl_jax.pictures.sheet import save_figure
from flsl_jax.studies.grid import Plan, Variant
from flsl_jax.studies.scores import Scores, paper_metrics, shown_metrics

_BASELINE_LINES = {"untrained": "--", "pixels": ":"}


def save_plots(path: Path, plan: Plan, scores: Scores, *, columns: int = 2) -> None:
    """Writes a picture with a panel for each metric of the page and one for each of the paper's.

    Points are means over the seeds and bars one standard deviation; small dots are the seeds. Variants of a group are joined
    by a line. Horizontal lines are the baselines.

    Args:
        path: of a PNG or SVG.
        plan: of the study.
        scores: what was measured.
        columns: of panels.
    """
    shown, papers = shown_metrics(plan, scores), paper_metrics(plan)
    panels = []
    for metric in shown:
        panels.append((metric, False))
        panels += [(metric, True)] if metric in papers else []
    panels += [(metric, True) for metric in papers if metric not in shown]
    figure, axes = grid_of_panels(len(panels), columns=columns)
    for axis, (metric, of_paper) in zip(axes, panels):
        if of_paper:
            _draw_paper(axis, plan, metric)
        else:
            _draw_ours(axis, plan, scores, metric)
        names = [variant.name for variant in plan.study.variants]
        axis.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 5 else 0, fontsize=8)
        axis.set(title=f"{metric}, {'the paper' if of_paper else 'ours'}", xlim=(-0.5, len(names) - 0.5))
        axis.grid(alpha=0.25)
    save_figure(figure, path)


def _groups(plan: Plan) -> Iterator[tuple[str, Sequence[tuple[int, Variant]]]]:
    """The numbers and variants of each group; a variant without one is a group by itself."""
    numbered = list(enumerate(plan.study.variants))
    for name in dict.fromkeys(variant.group for _, variant in numbered):
        members = [(number, variant) for number, variant in numbered if variant.group == name]
        if name:
            yield name, members
        else:
            yield from (("", [member]) for member in members)


def _draw_ours(axis: Any, plan: Plan, scores: Scores, metric: str) -> None:
    groups = list(_groups(plan))
    for color, (name, members) in zip(_colors(), groups):
        there = [(number, scores[variant.name][metric]) for number, variant in members if _has(scores, variant, metric)]
        if not there:
            continue
        places, spreads = zip(*there)
        axis.errorbar(
            places, [spread.mean for spread in spreads], yerr=[spread.std or 0.0 for spread in spreads], color=color,
            marker="o", markersize=5, linewidth=1.4, capsize=3, label=name if len(groups) > 1 else "",
        )  # fmt: skip
        for place, spread in there:
            axis.plot([place] * spread.n, list(spread.values.values()), ".", color=color, markersize=3, alpha=0.6)
    for kind in plan.study.baselines:
        if metric in scores.get(kind, {}):
            value = scores[kind][metric].mean
            axis.axhline(value, color="0.5", linestyle=_BASELINE_LINES[kind], linewidth=1, label=kind)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7, edgecolor="none")


def _draw_paper(axis: Any, plan: Plan, metric: str) -> None:
    for color, (_, members) in zip(_colors(), _groups(plan)):
        there = [(number, variant.paper[metric]) for number, variant in members if metric in variant.paper]
        if there:
            axis.plot(*zip(*there), color=color, marker="s", markersize=5, linewidth=1.4)


def _has(scores: Scores, variant: Variant, metric: str) -> bool:
    return metric in scores.get(variant.name, {})


def _colors() -> Iterator[str]:
    while True:
        yield from OKABE_ITO
