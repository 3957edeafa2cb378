"""The findings as text for people and as JSON for programs."""

import json
import textwrap
from collections.abc import Sequence

from flsl_jax._version import __version__
from flsl_jax.doctor.finding import COLOURS, Colour, Finding

_ESCAPES: dict[Colour, str] = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m"}
_MEANINGS: dict[Colour, str] = {
    "green": "nothing stands in the way",
    "yellow": "a training would run; look at the yellow lines first",
    "red": "a training would not start or would fail; mend the red lines first",
}


class TextReport:
    """Findings as lines of text, one group after another.

    Args:
        width: columns of a line.
        coloured: whether the terminal shows colours.
    """

    def __init__(self, *, width: int, coloured: bool) -> None:
        self._width, self._coloured, self._group = width, coloured, ""

    def lines(self, finding: Finding) -> str:
        """A finding's lines, below the name of its group if that is a new one; with a line break at the end."""
        group, _, check = finding.name.partition("/")
        heading = f"\n{group}\n" if group != self._group else ""
        self._group = group
        word = f"{finding.colour:<6}"
        margin = " " * 26
        text = textwrap.fill(
            f"  {word}  {check:<15} {finding.found}", self._width, subsequent_indent=margin, break_on_hyphens=False
        )
        if finding.advice:
            text += "\n" + textwrap.fill(
                f"→ {finding.advice}",
                self._width,
                initial_indent=margin,
                subsequent_indent=f"{margin}  ",
                break_on_hyphens=False,
                break_long_words=False,
            )
        if self._coloured:
            text = text.replace(word, f"{_ESCAPES[finding.colour]}{word}\033[0m", 1)
        return f"{heading}{text}\n"


def last_line(findings: Sequence[Finding], *, worst: Colour) -> str:
    """How many findings of each colour there are, and what that means."""
    counts = {colour: sum(finding.colour == colour for finding in findings) for colour in COLOURS}
    return f"{', '.join(f'{count} {colour}' for colour, count in counts.items())}: {_MEANINGS[worst]}"


def as_json(findings: Sequence[Finding], *, worst: Colour) -> str:
    """One object: `version` of flsl_jax, the `worst` colour, and the `findings` with name, colour, found, advice."""
    values = {"version": __version__, "worst": worst, "findings": [vars(finding) for finding in findings]}
    return json.dumps(values, indent=2, ensure_ascii=False)
