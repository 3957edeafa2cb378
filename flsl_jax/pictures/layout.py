"""Where the panels of a sheet stand: every image once, its panels beside it or, on narrow sheets, below it."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

from flsl_jax.pictures.images import Query, ShownImage
from flsl_jax.pictures.panels import Line, Panel, Sheet


@dataclasses.dataclass(frozen=True)
class Style:
    """Sizes in inches: `cell` is the width of an image or panel. `columns`: of them in a row, at most.

    `below`: where the panels do not fit beside their image, they stand below it; otherwise its column stays empty there.
    `bar_below`: whether the colour bar lies below the panels. `titled`: whether the title is drawn. `dpi`: dots per inch.
    """

    cell: float
    columns: int
    below: bool
    bar_below: bool
    titled: bool
    dpi: int


WIDE = Style(cell=1.6, columns=8, below=False, bar_below=False, titled=True, dpi=110)
# For phones: at 360 CSS pixels its text can be read. The caption in the page says what the title would.
NARROW = Style(cell=1.12, columns=3, below=True, bar_below=True, titled=False, dpi=220)


@dataclasses.dataclass(frozen=True)
class Place:
    """A query place as it is marked: in pixels of the shown image, with a `number` where there are several."""

    query: Query
    number: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A panel, or the image itself; neither: empty. `title`: above it. `places`: marked in it."""

    panel: Panel | None = None
    is_image: bool = False
    title: str = ""
    places: Sequence[Place] = ()


_EMPTY = Cell()


@dataclasses.dataclass(frozen=True)
class Row:
    """Cells about one image, from the left; `label`: beside them."""

    image: ShownImage
    label: str
    cells: Sequence[Cell]


@dataclasses.dataclass(frozen=True)
class _Strip:
    """Panels that belong together: those of one line or, of several models, one panel of each."""

    label: str
    cells: Sequence[Cell]


def rows_of(sheet: Sheet, style: Style) -> list[Row]:
    """The rows of a sheet from the top. Titles that a row shares with the one before it are left out."""
    groups = list(_groups(sheet))
    rows: list[Row] = []
    for group in groups:
        lines = [lines_of_models[0] for lines_of_models in group]
        name = lines[0].image.name if len(groups) > 1 else ""
        queries = [line.query for line in lines if line.query is not None]
        places = [Place(query, str(number) if len(queries) > 1 else "") for number, query in enumerate(queries, 1)]
        image = Cell(is_image=True, title="" if rows else "image", places=places)
        strips = _strips(sheet, group)
        if len(strips) == 1 and len(sheet.lines) == 1:
            label = strips[0].label or name
            chunks = [(label, cells) for cells in _split([image, *strips[0].cells], style.columns)]
        else:
            chunks = _beside(image, strips, name=name, style=style)
        rows += [Row(image=lines[0].image, label=label, cells=cells) for label, cells in chunks]
    return _without_repeated_titles(rows)


def _groups(sheet: Sheet) -> Iterator[list[tuple[Line, ...]]]:
    """Lines of one image, each with the lines of all models."""
    together = zip(*sheet.lines.values(), strict=True)
    for _, group in itertools.groupby(together, key=lambda lines: id(lines[0].image)):
        yield list(group)


def _strips(sheet: Sheet, group: Sequence[tuple[Line, ...]]) -> list[_Strip]:
    labels = [_query_label(lines[0].query, number, of=len(group)) for number, lines in enumerate(group, 1)]
    if len(sheet.lines) > 1:
        return [strip for label, lines in zip(labels, group) for strip in _compared(label, lines, list(sheet.lines))]
    lines = [lines[0] for lines in group]
    if len(lines) > 1 and all(len(line.panels) == 1 for line in lines):
        cells = [
            _cell(panel, title=label, line=line) for label, line in zip(labels, lines) for panel in line.panels.values()
        ]
        return [_Strip("", cells)]
    return [
        _Strip(label, [_cell(panel, title=name, line=line) for name, panel in line.panels.items()])
        for label, line in zip(labels, lines)
    ]


def _compared(label: str, lines: Sequence[Line], models: Sequence[str]) -> Iterator[_Strip]:
    """A strip for each panel that any model has."""
    longest = max(lines, key=lambda line: len(line.panels))
    names = dict.fromkeys([*longest.panels, *(name for line in lines for name in line.panels)])
    for name in names:
        cells = [_cell(line.panels.get(name), title=model, line=line) for model, line in zip(models, lines)]
        yield _Strip("\n".join(filter(None, (label, name if len(names) > 1 else ""))), cells)


def _beside(image: Cell, strips: Sequence[_Strip], *, name: str, style: Style) -> list[tuple[str, Sequence[Cell]]]:
    """Labels and cells of rows: the image in the first one only, the panels of all of them below each other."""
    longest = max(len(strip.cells) for strip in strips)
    below = style.below and 1 + longest > style.columns
    room = style.columns - (not below)
    chunks: list[tuple[str, Sequence[Cell]]] = [(name, [image])] if below else []
    for strip in strips:
        for cells in filter(_has_panel, _split(strip.cells, room)):
            first = _EMPTY if chunks else image
            label = strip.label if below or chunks else "\n".join(filter(None, (name, strip.label)))
            chunks.append((label, cells if below else [first, *cells]))
    return chunks


def _has_panel(cells: Sequence[Cell]) -> bool:
    return any(cell.panel is not None for cell in cells)


def _cell(panel: Panel | None, *, title: str, line: Line) -> Cell:
    return Cell(panel=panel, title=title, places=[] if line.query is None else [Place(line.query)])


def _query_label(query: Query | None, number: int, *, of: int) -> str:
    if query is None:
        return ""
    return f"{number}: {query.label}" if of > 1 else query.label


def _split(cells: Sequence[Cell], most: int) -> list[Sequence[Cell]]:
    return [cells[start : start + most] for start in range(0, len(cells), most)]


def _without_repeated_titles(rows: Sequence[Row]) -> list[Row]:
    found: list[Row] = []
    shown: list[str] = []
    for row in rows:
        titles = [cell.title for cell in row.cells if cell != _EMPTY and not cell.is_image]
        if titles and titles == shown:
            cells = [cell if cell.is_image else dataclasses.replace(cell, title="") for cell in row.cells]
            row = dataclasses.replace(row, cells=cells)
        shown = titles or shown
        found.append(row)
    return found
