"""What a check has found, and an examination that goes on whatever happens to a check."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from flsl_jax.errors import UserError, first_line, one_line

_T = TypeVar("_T")

Colour = Literal["green", "yellow", "red"]
COLOURS: tuple[Colour, ...] = ("green", "yellow", "red")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the examination.

    `name`: GROUP/CHECK, such as "data/sizes". `colour`: "green": fine; "yellow": a training would run, but look at it; "red":
    it would not start, or would fail. `found`: what is there. `advice`: what to do; empty where it is green.
    """

    name: str
    colour: Colour
    found: str
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.colour == "green") == bool(self.advice):
            raise ValueError(f"{self.name} is {self.colour}; expected advice with yellow and red, and none with green")


class Examination:
    """Runs checks and keeps what they find. A check that fails itself becomes a finding too.

    Args:
        tell: called with each finding as soon as it is there.
    """

    def __init__(self, tell: Callable[[Finding], None] = lambda finding: None) -> None:
        self.findings: list[Finding] = []
        self._tell = tell

    @property
    def worst(self) -> Colour:
        """The worst colour so far."""
        return COLOURS[max((COLOURS.index(finding.colour) for finding in self.findings), default=0)]

    def check(self, name: str, look: Callable[[], Finding | Iterable[Finding]], *, advice: str) -> None:
        """Keeps what a check finds.

        Args:
            name: of the finding if the check fails.
            look: the check. A `UserError` is what a training would end with, so it is red; the part behind its last semicolon
                says what to do. What else it raises is yellow, because the check has then not answered; but a package that
                cannot be imported is red.
            advice: what to do where an error does not say it.
        """
        self.keep(self.obtain(name, lambda: _listed(look()), advice=advice) or ())

    def obtain(self, name: str, make: Callable[[], _T], *, advice: str) -> _T | None:
        """What `make` returns, for later checks; None if it fails, which is a finding as in `check`."""
        try:
            return make()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # whatever a library raises, some of it not even an Exception
            self.keep([_failure(name, error, advice=advice)])
            return None

    def keep(self, findings: Iterable[Finding]) -> None:
        """Adds findings."""
        for finding in findings:
            self.findings.append(finding)
            self._tell(finding)


def _listed(found: Finding | Iterable[Finding]) -> list[Finding]:
    return [found] if isinstance(found, Finding) else list(found)


def _failure(name: str, error: BaseException, *, advice: str) -> Finding:
    if isinstance(error, UserError):
        found, semicolon, told = str(error).rpartition("; ")
        return Finding(
            name=name, colour="red", found=found if semicolon else told, advice=told if semicolon else advice
        )
    what = one_line(f"{type(error).__name__}: {first_line(error)}")
    if isinstance(error, ImportError):
        return Finding(
            name=name,
            colour="red",
            found=f"a package is missing or broken ({what})",
            advice="install the package again",
        )
    return Finding(name=name, colour="yellow", found=f"this check has itself failed ({what})", advice=advice)
