"""A page of HTML in one file: sections, tables and embedded pictures, for a screen, a phone or paper, without a network."""

import base64
import dataclasses
import html
import importlib.resources
import os
import re
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flsl_jax.errors import UserError

_MIME = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page: its heading, from which its anchor is made, and its HTML; without HTML it is left out."""

    heading: str
    body: str

    @property
    def anchor(self) -> str:
        """What links to it name."""
        return self.heading.lower().replace(" ", "-")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file; `alt`: what it shows, for those who do not see it; `title`: a few words above it."""

    path: Path
    alt: str
    title: str = ""


def write_page(path: Path, *, title: str, subtitle: str, sections: Sequence[Section], flag: str) -> None:
    """Writes a page, whole or not at all.

    Args:
        path: of the page; its folder is made if it does not exist.
        title, subtitle: plain text above the sections.
        sections: in their order.
        flag: what names the folder on the command line, for the error message.

    Raises:
        UserError: the page cannot be written.
    """
    shown = [section for section in sections if section.body]
    page = string.Template(importlib.resources.files("flsl_jax.pictures").joinpath("page.html").read_text("utf-8"))
    text = page.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        navigation=" ".join(f'<a href="#{section.anchor}">{section.heading}</a>' for section in shown),
        sections="\n".join(
            f'<section id="{section.anchor}">\n<h2>{section.heading}</h2>\n{section.body}</section>'
            for section in shown
        ),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another {flag}") from error


def table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), caption: str = "", numbers: bool = False) -> str:
    """A table of cells that are HTML, which scrolls if it is too wide; the first column has the headings of the rows.

    Headings may break after `_`, `/`, `.` and `=`, other cells after `=`, so that columns can be narrow.
    """
    kind = ' class="number"' if numbers else ""
    lines = ['<div class="scroll"><table>', f"<caption>{caption}</caption>" if caption else ""]
    if head:
        cells = "".join(f"<th{kind}>{_breakable(cell)}</th>" for cell in head[1:])
        lines.append(f"<thead><tr><th>{_breakable(head[0])}</th>{cells}</tr></thead>")
    lines.append("<tbody>")
    for row in rows:
        cells = "".join(f"<td{kind}>{_breakable(cell, after='=')}</td>" for cell in row[1:])
        lines.append(f"<tr><th>{_breakable(row[0])}</th>{cells}</tr>")
    return "\n".join([*filter(None, lines), "</tbody></table></div>\n"])


def _breakable(cell: str, *, after: str = "_/.=") -> str:
    """HTML of a cell with places at which it may break; not within tags."""
    return re.sub(rf"[{after}](?=\w)(?![^<>]*>)", r"\g<0><wbr>", cell)


def figure(path: Path, caption: str, *, width: int = 960, wide: bool = False, narrow: Path | None = None) -> str:
    """An embedded picture.

    Args:
        path: of the picture.
        caption: below it.
        width: of the picture, in CSS pixels.
        wide: whether it grows with the page.
        narrow: the same picture laid out for phones, as wide as their screens; without it they scroll.
    """
    image = f'<img src="{_embedded(path)}" alt="{escape(caption)}">'
    kind = "wide" if wide else ""
    if narrow is not None:
        image = f'<picture><source media="(max-width: 42rem)" srcset="{_embedded(narrow)}">{image}</picture>'
        kind = f"{kind} fits".strip()
    kind = f' class="{kind}"' if kind else ""
    return (
        f'<figure{kind} style="--width: {width}px"><div class="scroll">{image}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def row_of_pictures(pictures: Sequence[Picture], caption: str, *, legend: Iterable[tuple[str, str]] = ()) -> str:
    """Pictures beside each other or, where the page is too narrow, below each other.

    Args:
        pictures: as wide as the row allows; those of two rows with equally many are as wide as each other.
        caption: plain text below them.
        legend: hexadecimal colours and what they mean.
    """
    cells = "".join(
        f"<div>{f'<p>{escape(picture.title)}</p>' if picture.title else ''}"
        f'<img src="{_embedded(picture.path)}" alt="{escape(picture.alt)}"></div>'
        for picture in pictures
    )
    swatches = " ".join(
        f'<span class="key"><span style="background:{color}"></span>{escape(words)}</span>' for color, words in legend
    )
    return (
        f'<figure class="row"><div class="cells">{cells}</div>'
        f"<figcaption>{f'<p>{swatches}</p>' if swatches else ''}{escape(caption)}</figcaption></figure>\n"
    )


def cards(pictures: Iterable[Picture]) -> str:
    """Pictures as small as a column, each with its title below it."""
    figures = "".join(
        f'<figure><img src="{_embedded(picture.path)}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.title)}</figcaption></figure>"
        for picture in pictures
    )
    return f'<div class="cards">{figures}</div>\n'


def _embedded(path: Path) -> str:
    return f"data:{_MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def number(value: Any) -> str:
    """A value for a cell: four digits of a float, a dash for None, any other as text."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def escape(text: str) -> str:
    """Plain text as HTML."""
    return html.escape(text, quote=True)
