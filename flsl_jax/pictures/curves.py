"""Training curves of one run, or of several runs in one figure."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.objective import TERMS
from flsl_jax.pictures.panels import OKABE_ITO
from flsl_jax.pictures.runs import AlarmMark
from flsl_jax.pictures.sheet import agg_pyplot, save_figure

_LOSSES = ("loss", *sorted(TERMS))
_PANELS = (
    ("loss terms", _LOSSES),
    ("entropies (nats)", ("mean_entropy", "student_entropy", "teacher_entropy")),
    ("shares", ("attention_share", "mode_similarity", "position_share", "agreement", "feature_std")),
    ("effective rank", ("effective_rank",)),
    ("bbox-aligned k-NN", ("knn_any", "knn_majority", "knn_token")),
)
# The one panel of a run that ended before `config.logging.every_steps` steps and measured no k-NN.
_NOTHING = ("no line of losses yet", dict[str, str]())
# What is drawn where runs are compared: one panel each.
_COMPARED = (
    *_LOSSES, "mean_entropy", "teacher_entropy", "attention_share", "position_share", "effective_rank",
    "knn_any", "knn_token",
)  # fmt: skip


def save_curves(
    metrics: Sequence[dict[str, Any]],
    path: Path,
    *,
    log_centroids: float,
    alarms: Sequence[AlarmMark] = (),
    columns: int = 2,
) -> None:
    """Writes a picture of the loss terms, the entropies beside ln K, the monitor's shares, the effective rank, and the k-NN if
    it was measured.

    Args:
        metrics: lines of a metrics.jsonl.
        path: of a PNG or SVG.
        log_centroids: ln K, a line in the panel of the entropies.
        alarms: of the monitor; each kind is marked at its first step by a number, and named below the panels.
        columns: of panels.
    """
    panels = [(title, _coloured(names, metrics)) for title, names in _PANELS]
    panels = [(title, colors) for title, colors in panels if colors] or [_NOTHING]
    figure, axes = grid_of_panels(len(panels), columns=columns)
    marks = _first_steps(alarms)
    for axis, (title, colors) in zip(axes, panels):
        _draw_lines(axis, metrics, colors)
        if title.startswith("entropies"):
            axis.axhline(log_centroids, color="0.5", linestyle="--", linewidth=1, label="ln K")
        baseline = [line["knn_pixels_any"] for line in metrics if "knn_pixels_any" in line]
        if "k-NN" in title and baseline:
            axis.axhline(baseline[0], color="0.5", linestyle="--", linewidth=1, label="raw pixels (any)")
        _mark_alarms(axis, marks)
        _finish(axis, title, legend=bool(colors))
    _name_alarms(figure, marks)
    save_figure(figure, path)


def save_panels(
    metrics: Sequence[dict[str, Any]], path: Path, *, panels: Mapping[str, Sequence[str]], columns: int = 2
) -> None:
    """Writes a picture with a panel for each title in `panels`, of the quantities there that the metrics have at all.

    Args:
        metrics: lines of a metrics.jsonl.
        path: of a PNG or SVG.
        panels: seven names of quantities at most by the panel's title; a panel without any is left out.
        columns: of panels.
    """
    colored = {title: _coloured(names, metrics) for title, names in panels.items()}
    shown = [(title, colors) for title, colors in colored.items() if colors] or [_NOTHING]
    figure, axes = grid_of_panels(len(shown), columns=columns)
    for axis, (title, colors) in zip(axes, shown):
        _draw_lines(axis, metrics, colors)
        _finish(axis, title, legend=len(colors) > 1)
    save_figure(figure, path)


def compare_curves(runs: Mapping[str, Sequence[dict[str, Any]]], path: Path, *, columns: int = 2) -> None:
    """Writes a picture of several runs: a panel for each quantity that at least one of them has, a colour for each run.

    Args:
        runs: the lines of each run's metrics.jsonl, by its name in the legend.
        path: of a PNG or SVG.
        columns: of panels.
    """
    lines = [line for metrics in runs.values() for line in metrics]
    names = [name for name in _COMPARED if any(name in line for line in lines)] or [_NOTHING[0]]
    figure, axes = grid_of_panels(len(names), columns=columns)
    for axis, name in zip(axes, names):
        for number, (run, metrics) in enumerate(runs.items()):
            _draw_line(axis, metrics, name, color=OKABE_ITO[number % len(OKABE_ITO)], label=run)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.25)
    handles = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=min(1 + columns, len(runs)), fontsize=9,
        frameon=False,
    )  # fmt: skip
    save_figure(figure, path)


def grid_of_panels(count: int, *, columns: int = 2) -> tuple[Any, list[Any]]:
    """A figure with this many panels in at most so many columns, and the axes of the panels."""
    columns = min(columns, count)
    rows = -(-count // columns)
    size = (5.2 * columns if columns > 1 else 4.3, 3.0 * rows)
    figure, axes = agg_pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def _coloured(names: Sequence[str], metrics: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The colours of the quantities that a run has; one quantity has the same colour in the curves of every run."""
    return {name: color for name, color in zip(names, OKABE_ITO) if any(name in line for line in metrics)}


def _draw_lines(axis: Any, metrics: Sequence[dict[str, Any]], colors: Mapping[str, str]) -> None:
    for name, color in colors.items():
        _draw_line(axis, metrics, name, color=color, label=name)


def _finish(axis: Any, title: str, *, legend: bool) -> None:
    axis.set(title=title, xlabel="step")
    axis.grid(alpha=0.25)
    if legend:
        _legend_beside(axis)


def _draw_line(axis: Any, metrics: Sequence[dict[str, Any]], name: str, *, color: str, label: str) -> None:
    points = [(line["step"], float(line[name])) for line in metrics if name in line]
    if points:
        marker = "o" if len(points) < 30 else None
        axis.plot(*zip(*points), color=color, label=label, linewidth=1.4, marker=marker, markersize=3)


def _legend_beside(axis: Any) -> None:
    """Right of the panel, where no curve is."""
    axis.legend(
        fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, handlelength=1.2
    )


def _first_steps(alarms: Sequence[AlarmMark]) -> dict[int, list[str]]:
    """The names of the alarms that were first raised at each step."""
    first: dict[str, int] = {}
    for alarm in alarms:
        first.setdefault(alarm.name, alarm.step)
    steps: dict[int, list[str]] = {}
    for name, step in first.items():
        steps.setdefault(step, []).append(name)
    return dict(sorted(steps.items()))


def _mark_alarms(axis: Any, marks: Mapping[int, Sequence[str]]) -> None:
    """A dotted line with a number at each step; a number beside another one is lowered."""
    for number, step in enumerate(marks, start=1):
        axis.axvline(step, color="black", linestyle=":", linewidth=1)
        axis.annotate(
            str(number), (step, 1), (0, -1 - 12 * ((number - 1) % 3)), xycoords=axis.get_xaxis_transform(),
            textcoords="offset points", fontsize=8, ha="center", va="top",
            bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": "black", "linewidth": 0.7},
        )  # fmt: skip


def _name_alarms(figure: Any, marks: Mapping[int, Sequence[str]]) -> None:
    if marks:
        named = [
            f"({number}) {', '.join(names)} at step {step:,}" for number, (step, names) in enumerate(marks.items(), 1)
        ]
        text = "\n".join(textwrap.wrap(f"alarms: {'; '.join(named)}", int(13 * figure.get_figwidth())))
        figure.supxlabel(text, fontsize=9, x=0.02, ha="left")
