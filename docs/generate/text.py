"""Paragraphs and tables in Markdown."""

import textwrap
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that hold text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def filled(paragraph: str) -> str:
    """A paragraph in lines of the length of all pages."""
    return textwrap.fill(paragraph, 120, break_on_hyphens=False, break_long_words=False)
