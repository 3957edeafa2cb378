"""Lists of images as people write them: lines of text, tables with commas, lines of JSON."""

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from flsl_jax.data.images.listing import IMAGE_SUFFIXES, read_file
from flsl_jax.errors import UserError, reason

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
# Columns and keys with a path or a class, in the order in which they are looked for, in any case of letters.
_IMAGE_COLUMNS = (
    "path", "file_name", "filename", "file", "filepath", "file_path", "image", "image_path", "img_path", "img", "name",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "category", "class_name", "label_name", "target")
# Rows that tell which column holds the images.
_LOOKED_AT = 100
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Entry(NamedTuple):
    """An image of a list: its path as it is written, and its class, or None."""

    path: str
    label: str | None


def read_list(path: Path, *, image_column: str = "", label_column: str = "") -> list[Entry]:
    """The images that a file lists.

    A byte-order mark, UTF-16 with one, line ends of any system and empty lines are taken as they are meant.

    Args:
        path: of a .txt (a path in each line, behind it, after a tab or a space, a class if there is one), .csv or .tsv (a
            table) or .jsonl file (in each line an object, or a path in quotes).
        image_column: the column or key of the path; empty: the one with a usual name.
        label_column: that of the class; empty: the one with a usual name, if there is one.

    Raises:
        UserError: the file cannot be read, is empty or of another kind, or lacks a column; the message has the line.
    """
    suffix = path.suffix.lower()
    if suffix not in LIST_SUFFIXES:
        raise UserError(f"{path} is no list of images by its name; expected one of {' '.join(LIST_SUFFIXES)}")
    text = _text(path)
    if suffix == ".txt":
        if image_column or label_column:
            raise UserError(
                f"{path} has no columns to choose from; leave image_column and label_column empty, or use a .csv"
            )
        entries = list(_lines(text))
    elif suffix == ".jsonl":
        entries = _objects(text, path=path, image_column=image_column, label_column=label_column)
    else:
        entries = _table(text, path=path, image_column=image_column, label_column=label_column)
    if not entries:
        raise UserError(f"{path} lists no image; write the path of one in each line")
    return entries


def _text(path: Path) -> str:
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); name a list of images") from error
    if b"\0" in data and not data.startswith(_UTF_16):
        raise UserError(f"{path} is no text; name a list of images, such as a .csv saved as text")
    # File names may hold any bytes; these come out as they went in.
    wide = data.startswith(_UTF_16)
    text = data.decode("utf-16", errors="replace") if wide else data.decode("utf-8-sig", errors="surrogateescape")
    text = text.replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")


def _lines(text: str) -> Iterator[Entry]:
    for line in text.split("\n"):  # str.splitlines would cut names at characters that they may hold
        if not line.strip():
            continue
        name, tab, label = line.strip().rpartition("\t")
        if tab:
            yield Entry(name.strip(), label.strip())
            continue
        name, _, label = line.strip().rpartition(" ")
        # "n01440764/1.JPEG 0": a class behind the name of an image. A name may have spaces too.
        if label.lstrip("-").isdecimal() and name.rstrip().lower().endswith(IMAGE_SUFFIXES):
            yield Entry(name.rstrip(), label)
        else:
            yield Entry(line.strip(), None)


def _objects(text: str, *, path: Path, image_column: str, label_column: str) -> list[Entry]:
    entries = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({reason(error)}); expected an object in each line"
            ) from error
        if isinstance(value, str):
            entries.append(Entry(value, None))
            continue
        if not isinstance(value, dict):
            raise UserError(f"{path}, line {number}: expected an object with a path, or a path in quotes")
        where = f"{path}, line {number}"
        column = _column(list(value), image_column, _IMAGE_COLUMNS, where=where, what="path", key="image_column")
        found = value[column]
        if not isinstance(found, str) or not found:
            raise UserError(f"{where}: {column} is {found!r}; expected the path of an image")
        entries.append(Entry(found, _label_of(value, label_column, where=where)))
    return entries


def _label_of(value: dict[str, object], label_column: str, *, where: str) -> str | None:
    column = _label_column(list(value), label_column, where=where)
    label = None if column is None else value[column]
    if label is None or isinstance(label, str | int):
        return None if label is None or label == "" else str(label)
    if label_column:
        raise UserError(f"{where}: {column} is {label!r}; expected a word or a whole number")
    return None


def _table(text: str, *, path: Path, image_column: str, label_column: str) -> list[Entry]:
    rows = _rows(text, path=path)
    if not rows:
        return []
    (_, header), body = rows[0], rows[1:]
    titles, where = [cell.strip() for cell in header], f"{path}, line 1"
    by_values = None if image_column or _first(titles, _IMAGE_COLUMNS) else _column_of_images(body)
    if by_values is not None and not _is_image(titles[by_values]):
        image_column = titles[by_values]
    if not image_column and _first(titles, _IMAGE_COLUMNS) is None:
        image, label = _without_header(titles, label_column, path=path)
        body = rows
    else:
        image = titles.index(
            _column(titles, image_column, _IMAGE_COLUMNS, where=where, what="path", key="image_column")
        )
        found = _label_column(titles, label_column, where=where)
        label = None if found is None else titles.index(found)
    entries = []
    for number, row in body:
        if image >= len(row) or not row[image].strip():
            raise UserError(f"{path}, line {number}: no path in column {image + 1}; complete or remove the line")
        cell = row[label].strip() if label is not None and label < len(row) else ""
        entries.append(Entry(row[image].strip(), cell or None))
    return entries


def _rows(text: str, *, path: Path) -> list[tuple[int, list[str]]]:
    """Numbers of lines and cells; a quoted cell may hold line ends."""
    head = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}; mend the quotes of this line") from error
    return rows


def _is_image(cell: str) -> bool:
    return cell.strip().lower().endswith(IMAGE_SUFFIXES)


def _column_of_images(body: Sequence[tuple[int, Sequence[str]]]) -> int | None:
    """The only column whose cells are all images by their endings, in the first rows; None if there is no such one."""
    rows = [row for _, row in body[:_LOOKED_AT]]
    width = min(map(len, rows), default=0)
    found = [column for column in range(width) if all(_is_image(row[column]) for row in rows)]
    return found[0] if len(found) == 1 else None


def _without_header(cells: Sequence[str], label_column: str, *, path: Path) -> tuple[int, int | None]:
    """Columns of the path and of the class, where the first line is an image already."""
    images = [number for number, cell in enumerate(cells) if _is_image(cell)]
    if not images or label_column:
        raise UserError(
            f"{path} has no column with a usual name of paths ({', '.join(_IMAGE_COLUMNS[:5])}, …), only "
            f"{', '.join(cells) or 'an empty line'}; name it by image_column"
        )
    image = images[0]
    return image, (1 - image if len(cells) == 2 else None)


def _column(titles: Sequence[str], wanted: str, usual: Sequence[str], *, where: str, what: str, key: str) -> str:
    found = _first(titles, (wanted,) if wanted else usual)
    if found is None:
        sought = repr(wanted) if wanted else f"a usual name of a {what}"
        raise UserError(
            f"{where}: no column {sought}, only {', '.join(titles) or 'nothing'}; name one of them by {key}"
        )
    return found


def _label_column(titles: Sequence[str], wanted: str, *, where: str) -> str | None:
    if wanted:
        return _column(titles, wanted, (), where=where, what="class", key="label_column")
    return _first(titles, LABEL_COLUMNS)


def _first(titles: Sequence[str], names: Sequence[str]) -> str | None:
    """The title that is spelled like one of the names; exactly, else in other letters."""
    by_lower = {title.lower(): title for title in reversed(titles)}
    return next(
        (name if name in titles else by_lower[name.lower()] for name in names if name.lower() in by_lower), None
    )


def spelled(path: str, *, folder: str) -> str:
    """A path of a list relative to the list's folder where it lies below that, with forward slashes and no detours."""
    absolute = os.path.normpath(os.path.join(folder, path))
    below = folder.rstrip(os.sep) + os.sep
    return absolute[len(below) :] if absolute.startswith(below) else absolute
