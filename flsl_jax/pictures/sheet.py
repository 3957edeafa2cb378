"""Sheets of pictures: each image beside its maps, or models side by side, with one scale and its colour bar."""

import dataclasses
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.pictures.images import Query, ShownImage
from flsl_jax.typing import Float, UInt8

# Okabe and Ito's colour-blind-safe palette.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_DPI = 110
# In inches: a cell's width, the gap between cells, a row's label, a cell's title, a legend's line, the bar with its labels.
_CELL, _GAP, _LABEL, _TITLE, _LEGEND, _BAR = 1.6, 0.06, 0.36, 0.2, 0.13, 0.95
_LEGEND_COLUMNS = 3
# How many panels stand beside an image before the next row starts.
_WRAP = 7


@dataclasses.dataclass(frozen=True)
class MapPanel:
    """One value for each patch, in the sheet's scale."""

    values: Float[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class ColourPanel:
    """Colours of patches or pixels; `legend`: hexadecimal colours and what they mean."""

    colours: UInt8[np.ndarray, "h w 3"]
    legend: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class PointsPanel:
    """Points in the plane, each in its own colour from 0 to 1."""

    points: Float[np.ndarray, "N 2"]
    colours: Float[np.ndarray, "N 3"]


Panel = MapPanel | ColourPanel | PointsPanel


@dataclasses.dataclass(frozen=True)
class Line:
    """One image, or one query place in it, with its panels by name."""

    image: ShownImage
    panels: Mapping[str, Panel]
    query: Query | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """What all maps of a sheet share: the bar's label, a colour map, and the values at its ends; None: from the maps."""

    label: str
    colour_map: str = "viridis"
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class _Row:
    """A row of cells as drawn: the image, then panels under their titles."""

    line: Line
    label: str
    cells: Sequence[tuple[str, Panel | None]]

    @property
    def image_height(self) -> float:
        """In inches, as for all heights here."""
        height, width = self.line.image.pixels.shape[:2]
        return _CELL * height / width

    @property
    def title_height(self) -> float:
        """Of the panels' titles; 0 without titles."""
        lines = max(name.count("\n") + 1 if name else 0 for name, _ in self.cells)
        return _TITLE + 0.14 * (lines - 1) if lines else 0.0

    @property
    def legend_height(self) -> float:
        """Of the longest legend below the panels."""
        entries = [len(panel.legend) for _, panel in self.cells if isinstance(panel, ColourPanel)]
        return _LEGEND * -(-max(entries, default=0) // _LEGEND_COLUMNS)

    @property
    def height(self) -> float:
        """Of the whole row."""
        return self.title_height + self.image_height + self.legend_height + _GAP


def save_sheet(path: Path, lines: Mapping[str, Sequence[Line]], *, title: str, scale: Scale | None = None) -> None:
    """Writes a PNG, whole or not at all.

    For one model, a row shows the image and the panels of one line; long rows continue in the next one. For several models,
    a row shows the image and one panel of one line, with a column for each model; a panel that a model lacks stays empty.

    Args:
        path: of the PNG.
        lines: of each model, by the title of its column; all models have lines of the same images.
        title: above the sheet.
        scale: of the `MapPanel`s; None if there are none.
    """
    rows = _compared(lines) if len(lines) > 1 else _wrapped(next(iter(lines.values())))
    columns = 1 + max(len(row.cells) for row in rows)
    width = _LABEL + columns * (_CELL + _GAP) + (_BAR if scale else _GAP)
    title = "\n".join(textwrap.wrap(title, int(14 * width)))
    top = 0.16 * (title.count("\n") + 1) + 0.1
    height = top + sum(row.height for row in rows)
    figure = agg_pyplot().figure(figsize=(width, height))
    low, high = _limits(rows, scale)
    y = height - top
    for row in rows:
        y -= row.title_height + row.image_height
        for column in range(1 + len(row.cells)):
            x = _LABEL + column * (_CELL + _GAP)
            axis = figure.add_axes((x / width, y / height, _CELL / width, row.image_height / height))
            axis.set(xticks=[], yticks=[])
            if column == 0:
                _draw_image(axis, row, title="image" if row is rows[0] else "")
            else:
                name, panel = row.cells[column - 1]
                _draw_panel(axis, panel, row.line, scale=scale, low=low, high=high)
                axis.set_title(name, fontsize=8, pad=3)
        y -= row.legend_height + _GAP
    if scale is not None:
        long = min(3.0, height - top - 0.32)
        place = ((width - _BAR + _GAP) / width, (height - top - 0.2 - long) / height, 0.12 / width, long / height)
        label = "\n".join(textwrap.wrap(scale.label, max(8, int(13 * long))))
        _draw_bar(figure, place, dataclasses.replace(scale, label=label), low=low, high=high)
    figure.text(0.5, 1 - 0.06 / height, title, fontsize=8.5, ha="center", va="top")
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure as PNG or SVG, whole or not at all, and closes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, dpi=_DPI, format=path.suffix[1:])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        agg_pyplot().close(figure)


def agg_pyplot() -> Any:
    """matplotlib.pyplot, drawing to files only."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _wrapped(lines: Sequence[Line]) -> list[_Row]:
    rows = []
    for line in lines:
        cells = list(line.panels.items())
        for start in range(0, len(cells), _WRAP):
            rows.append(_Row(line, _line_label(line, lines), cells[start : start + _WRAP]))
            if len(rows) > 1 and len(cells) <= _WRAP and list(line.panels) == list(rows[0].line.panels):
                rows[-1] = dataclasses.replace(rows[-1], cells=[("", panel) for _, panel in cells])
    return rows


def _line_label(line: Line, lines: Sequence[Line]) -> str:
    """The query place, or the image's name where there are several images."""
    if line.query:
        return line.query.label
    return "" if all(other.image is line.image for other in lines) else line.image.name


def _compared(lines: Mapping[str, Sequence[Line]]) -> list[_Row]:
    rows, first = [], next(iter(lines.values()))
    for line_of_all in zip(*lines.values(), strict=True):
        longest = max(line_of_all, key=lambda line: len(line.panels))
        names = dict.fromkeys([*longest.panels, *(name for line in line_of_all for name in line.panels)])
        for name in names:
            label = [_line_label(line_of_all[0], first), name if len(names) > 1 else ""]
            titles = lines if not rows else [""] * len(lines)
            cells = [(title, line.panels.get(name)) for title, line in zip(titles, line_of_all)]
            rows.append(_Row(line_of_all[0], "\n".join(filter(None, label)), cells))
    return rows


def _limits(rows: Sequence[_Row], scale: Scale | None) -> tuple[float, float]:
    values = [panel.values for row in rows for _, panel in row.cells if isinstance(panel, MapPanel)]
    if scale is None or not values:
        return 0.0, 1.0
    low = min(map(np.min, values)) if scale.low is None else scale.low
    high = max(map(np.max, values)) if scale.high is None else scale.high
    return float(low), float(high)


def _draw_image(axis: Any, row: _Row, *, title: str) -> None:
    axis.imshow(row.line.image.pixels, interpolation="nearest")
    axis.set_title(title, fontsize=8, pad=3)
    letters = int(14 * row.image_height)
    shortened = [part if len(part) <= letters else f"…{part[1 - letters :]}" for part in row.label.split("\n")]
    axis.set_ylabel("\n".join(shortened), fontsize=8)
    _draw_query(axis, row.line.query)


def _draw_panel(axis: Any, panel: Panel | None, line: Line, *, scale: Scale | None, low: float, high: float) -> None:
    height, width = line.image.pixels.shape[:2]
    if panel is None:
        axis.set_frame_on(False)
    elif isinstance(panel, MapPanel):
        assert scale is not None
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(panel.values, cmap=scale.colour_map, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        _draw_query(axis, line.query)
    elif isinstance(panel, ColourPanel):
        axis.imshow(panel.colours, interpolation="nearest")
        handles = [axis.plot([], [], "s", color=colour, label=label, markersize=4)[0] for colour, label in panel.legend]
        if handles:
            axis.legend(
                handles=handles, fontsize=6, ncols=_LEGEND_COLUMNS, loc="upper center", bbox_to_anchor=(0.5, 0),
                frameon=False, borderpad=0.2, handlelength=0.8, handletextpad=0.4, columnspacing=0.8, labelspacing=0.3,
            )  # fmt: skip
    else:
        axis.scatter(*panel.points.T, c=panel.colours, s=6, linewidths=0)
        axis.set_facecolor("0.92")


def _draw_bar(figure: Any, place: tuple[float, ...], scale: Scale, *, low: float, high: float) -> None:
    plt = agg_pyplot()
    mappable = plt.cm.ScalarMappable(plt.Normalize(low, high), scale.colour_map)
    bar = figure.colorbar(mappable, cax=figure.add_axes(place))
    bar.set_label(scale.label, fontsize=7)
    bar.ax.tick_params(labelsize=7)


def _draw_query(axis: Any, query: Query | None) -> None:
    """A white ring with a black edge, to be seen on any colour."""
    if query is not None:
        for color, width in (("black", 3.0), ("white", 1.4)):
            axis.plot(
                query.x,
                query.y,
                "o",
                markersize=8,
                markerfacecolor="none",
                markeredgecolor=color,
                markeredgewidth=width,
            )
