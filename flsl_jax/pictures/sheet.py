"""Sheets of pictures: each image with its maps, or models side by side, with one scale and its colour bar."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.pictures.layout import WIDE, Cell, Place, Row, Style, rows_of
from flsl_jax.pictures.panels import ColourPanel, MapPanel, Panel, Scale, Sheet

# In inches: the gap between cells, a row's label, a line of a cell's title, a line of a legend, and the bar with its labels
# beside the panels or below them.
_GAP, _LABEL, _TITLE, _LEGEND, _BAR, _LOW_BAR = 0.06, 0.36, 0.14, 0.13, 0.95, 0.5
_LEGEND_COLUMNS = 3
_DPI = 110


def save_sheet(path: Path, sheet: Sheet, *, style: Style = WIDE) -> None:
    """Writes a PNG, whole or not at all.

    Each image stands on the sheet once, with all query places. Beside or below it are its panels: of one model those of each
    line, of several models a column for each model. A panel that a model lacks stays empty.
    """
    rows = rows_of(sheet, style)
    scale = sheet.scale
    columns = max(len(row.cells) for row in rows)
    width = _LABEL + columns * (style.cell + _GAP) + (_BAR if scale and not style.bar_below else _GAP)
    title = "\n".join(textwrap.wrap(sheet.title, int(14 * width))) if style.titled else ""
    top = (0.16 * (title.count("\n") + 1) if title else 0.0) + 0.1
    bottom = _LOW_BAR if scale and style.bar_below else 0.0
    height = top + sum(_row_height(row, style) for row in rows) + bottom
    figure = agg_pyplot().figure(figsize=(width, height))
    low, high = _limits(rows, scale)
    y = height - top
    for row in rows:
        y -= _title_height(row, style) + _image_height(row, style)
        figure.text(
            0.5 * _LABEL / width, (y + 0.5 * _image_height(row, style)) / height, _fitted(row.label, _image_height(row, style)),
            fontsize=8, rotation=90, ha="center", va="center", linespacing=1.1,
        )  # fmt: skip
        for column, cell in enumerate(row.cells):
            x = _LABEL + column * (style.cell + _GAP)
            axis = figure.add_axes((x / width, y / height, style.cell / width, _image_height(row, style) / height))
            axis.set(xticks=[], yticks=[])
            _draw_cell(axis, cell, row, scale=scale, low=low, high=high)
            axis.set_title(_wrapped(cell.title, style), fontsize=8, pad=3, linespacing=1.05)
        y -= _legend_height(row) + _GAP
    if scale is not None:
        _draw_bar(figure, scale, style=style, low=low, high=high, size=(width, height), top=top)
    figure.text(0.5, 1 - 0.06 / height, title, fontsize=8.5, ha="center", va="top")
    save_figure(figure, path, dpi=style.dpi)


def save_figure(figure: Any, path: Path, *, dpi: int = _DPI) -> None:
    """Writes a figure as PNG or SVG, whole or not at all, and closes it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, dpi=dpi, format=path.suffix[1:])
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


def _image_height(row: Row, style: Style) -> float:
    """In inches, as for all heights here."""
    height, width = row.image.pixels.shape[:2]
    return style.cell * height / width


def _title_height(row: Row, style: Style) -> float:
    """Of the longest title; 0 without titles."""
    lines = max(_wrapped(cell.title, style).count("\n") + 1 if cell.title else 0 for cell in row.cells)
    return 0.06 + _TITLE * lines if lines else 0.0


def _legend_height(row: Row) -> float:
    """Of the longest legend below the panels, with its note."""
    panels = [cell.panel for cell in row.cells if isinstance(cell.panel, ColourPanel)]
    return _LEGEND * max((_legend_lines(panel) + bool(panel.note) for panel in panels), default=0)


def _legend_lines(panel: ColourPanel) -> int:
    return -(-len(panel.legend) // _LEGEND_COLUMNS)


def _row_height(row: Row, style: Style) -> float:
    return _title_height(row, style) + _image_height(row, style) + _legend_height(row) + _GAP


def _wrapped(title: str, style: Style) -> str:
    """In lines that fit above a cell."""
    return "\n".join(line for part in title.split("\n") for line in textwrap.wrap(part, int(13.5 * style.cell)))


def _fitted(label: str, height: float) -> str:
    """A row's label in lines as long as the row is high; a word that is longer is shortened from its beginning."""
    letters = int(14 * height)
    label = "\n".join(part if len(part) <= letters else part.replace(": ", ":\n") for part in label.split("\n"))
    return "\n".join(part if len(part) <= letters else f"…{part[1 - letters :]}" for part in label.split("\n"))


def _limits(rows: Sequence[Row], scale: Scale | None) -> tuple[float, float]:
    values = [cell.panel.values for row in rows for cell in row.cells if isinstance(cell.panel, MapPanel)]
    if scale is None or not values:
        return 0.0, 1.0
    low = min(map(np.min, values)) if scale.low is None else scale.low
    high = max(map(np.max, values)) if scale.high is None else scale.high
    return float(low), float(high)


def _draw_cell(axis: Any, cell: Cell, row: Row, *, scale: Scale | None, low: float, high: float) -> None:
    height, width = row.image.pixels.shape[:2]
    panel: Panel | None = cell.panel
    if cell.is_image:
        axis.imshow(row.image.colours, interpolation="nearest")
    elif panel is None:
        axis.set_frame_on(False)
        return
    elif isinstance(panel, MapPanel):
        assert scale is not None
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(panel.values, cmap=scale.colour_map, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    elif isinstance(panel, ColourPanel):
        axis.imshow(panel.colours, interpolation="nearest")
        _draw_legend(axis, panel)
        return
    else:
        axis.scatter(*panel.points.T, c=panel.colours, s=6, linewidths=0)
        axis.set_facecolor("0.92")
        return
    for place in cell.places:
        _draw_place(axis, place, size=5 * axis.get_position().width * axis.figure.get_figwidth())


def _draw_legend(axis: Any, panel: ColourPanel) -> None:
    handles = [axis.plot([], [], "s", color=colour, label=label, markersize=4)[0] for colour, label in panel.legend]
    if handles:
        axis.legend(
            handles=handles, fontsize=6, ncols=_LEGEND_COLUMNS, loc="upper center", bbox_to_anchor=(0.5, 0),
            frameon=False, borderpad=0.2, handlelength=0.8, handletextpad=0.4, columnspacing=0.8, labelspacing=0.3,
        )  # fmt: skip
    if panel.note:
        below = -72 * _LEGEND * _legend_lines(panel) - 3
        axis.annotate(
            panel.note, (0.5, 0), (0, below), xycoords="axes fraction", textcoords="offset points", fontsize=6, ha="center",
            va="top",
        )  # fmt: skip


def _draw_bar(
    figure: Any, scale: Scale, *, style: Style, low: float, high: float, size: tuple[float, float], top: float
) -> None:
    plt, (width, height) = agg_pyplot(), size
    if style.bar_below:
        long = min(3.0, width - 2 * _LABEL)
        place = ((width - long) / 2 / width, 0.36 / height, long / width, 0.09 / height)
    else:
        long = min(3.0, height - top - 0.32)
        place = ((width - _BAR + _GAP) / width, (height - top - 0.2 - long) / height, 0.12 / width, long / height)
    mappable = plt.cm.ScalarMappable(plt.Normalize(low, high), scale.colour_map)
    orientation = "horizontal" if style.bar_below else "vertical"
    bar = figure.colorbar(mappable, cax=figure.add_axes(place), orientation=orientation)
    bar.set_label("\n".join(textwrap.wrap(scale.label, max(8, int(13 * long)))), fontsize=7, labelpad=2)
    bar.ax.tick_params(labelsize=7, pad=2)


def _draw_place(axis: Any, place: Place, *, size: float) -> None:
    """A white ring with a black edge, to be seen on any colour, and its number beside it where there are several.

    `size`: of the ring, in points.
    """
    from matplotlib import patheffects

    x, y = place.query.x, place.query.y
    for color, width in (("black", 0.36), ("white", 0.17)):
        axis.plot(
            x, y, "o", markersize=size, markerfacecolor="none", markeredgecolor=color, markeredgewidth=width * size
        )
    if place.number:
        edge = [patheffects.withStroke(linewidth=2, foreground="black")]
        offset = (0.6 * size, 0.5 * size)
        axis.annotate(
            place.number, (x, y), offset, textcoords="offset points", fontsize=7.5, color="white", path_effects=edge
        )
