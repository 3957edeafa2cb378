"""Training curves of one run, or of several runs in one figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.objective import TERMS
from flsl_jax.pictures.runs import AlarmMark
from flsl_jax.pictures.sheet import OKABE_ITO, agg_pyplot, save_figure

_LOSSES = ("loss", *sorted(TERMS))
_PANELS = (
    ("loss terms", _LOSSES),
    ("entropies (nats)", ("mean_entropy", "student_entropy", "teacher_entropy")),
    ("shares", ("attention_share", "mode_similarity", "position_share", "agreement", "feature_std")),
    ("bbox-aligned k-NN", ("knn_any", "knn_majority", "knn_token")),
)
# What is drawn where runs are compared: one panel each.
_COMPARED = (
    *_LOSSES, "mean_entropy", "teacher_entropy", "attention_share", "position_share",
    "knn_any", "knn_token",
)  # fmt: skip


def save_curves(
    metrics: Sequence[dict[str, Any]], path: Path, *, log_centroids: float, alarms: Sequence[AlarmMark] = ()
) -> None:
    """Writes a picture of the loss terms, the entropies beside ln K, the monitor's shares, and the k-NN if it was measured.

    Args:
        metrics: lines of a metrics.jsonl.
        path: of a PNG or SVG.
        log_centroids: ln K, a line in the panel of the entropies.
        alarms: of the monitor; each kind is marked with its name at its first step.
    """
    panels = [(title, [name for name in names if any(name in line for line in metrics)]) for title, names in _PANELS]
    panels = [(title, names) for title, names in panels if names]
    figure, axes = grid_of_panels(len(panels))
    for number, (axis, (title, names)) in enumerate(zip(axes, panels)):
        for color, name in zip(OKABE_ITO, names):
            _draw_line(axis, metrics, name, color=color, label=name)
        if title.startswith("entropies"):
            axis.axhline(log_centroids, color="0.5", linestyle="--", linewidth=1, label="ln K")
        baseline = [line["knn_pixels_any"] for line in metrics if "knn_pixels_any" in line]
        if "k-NN" in title and baseline:
            axis.axhline(baseline[0], color="0.5", linestyle="--", linewidth=1, label="raw pixels (any)")
        _mark_alarms(axis, alarms, named=number == 0)
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, edgecolor="none")
    save_figure(figure, path)


def compare_curves(runs: Mapping[str, Sequence[dict[str, Any]]], path: Path) -> None:
    """Writes a picture of several runs: a panel for each quantity that at least one of them has, a colour for each run.

    Args:
        runs: the lines of each run's metrics.jsonl, by its name in the legend.
        path: of a PNG or SVG.
    """
    names = [name for name in _COMPARED if any(name in line for metrics in runs.values() for line in metrics)]
    figure, axes = grid_of_panels(len(names))
    for axis, name in zip(axes, names):
        for number, (run, metrics) in enumerate(runs.items()):
            _draw_line(axis, metrics, name, color=OKABE_ITO[number % len(OKABE_ITO)], label=run)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.25)
    lines = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(
        lines.values(), lines.keys(), loc="outside lower center", ncols=min(3, len(runs)), fontsize=9, frameon=False
    )
    save_figure(figure, path)


def grid_of_panels(count: int) -> tuple[Any, list[Any]]:
    """A figure with this many panels in one or two columns, and the axes of the panels."""
    columns = min(2, count)
    rows = -(-count // columns)
    size = (5.2 * columns, 3.4 * rows)
    figure, axes = agg_pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def _draw_line(axis: Any, metrics: Sequence[dict[str, Any]], name: str, *, color: str, label: str) -> None:
    points = [(line["step"], float(line[name])) for line in metrics if name in line]
    if points:
        marker = "o" if len(points) < 30 else None
        axis.plot(*zip(*points), color=color, label=label, linewidth=1.4, marker=marker, markersize=3)


def _mark_alarms(axis: Any, alarms: Sequence[AlarmMark], *, named: bool) -> None:
    first = {}
    for alarm in alarms:
        first.setdefault(alarm.name, alarm.step)
    for name, step in first.items():
        axis.axvline(step, color="black", linestyle=":", linewidth=1)
        if named:
            place = axis.get_xaxis_transform()
            axis.text(step, 0.02, f" {name}", rotation=90, fontsize=7, ha="right", va="bottom", transform=place)
