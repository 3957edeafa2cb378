"""An examination goes on whatever a check does, and what failed is a finding in one line."""

import pytest

from flsl_jax.doctor.finding import Examination, Finding
from flsl_jax.errors import UserError

GREEN = Finding(name="a/b", colour="green", found="fine")


class Panic(BaseException):
    """As the libraries written in Rust raise."""


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "colour", "found", "advice"),
    [
        (UserError("a (b; c) is wrong; name another"), "red", "a (b; c) is wrong", "name another"),
        (UserError("a is wrong"), "red", "a is wrong", "do this"),
        (OSError("two\nlines"), "yellow", "this check has itself failed (OSError: two)", "do this"),
        (Panic("at 3"), "yellow", "this check has itself failed (Panic: at 3)", "do this"),
        (SystemExit(3), "yellow", "this check has itself failed (SystemExit: 3)", "do this"),
        (
            ModuleNotFoundError("No module named 'jax'"),
            "red",
            "missing or broken (ModuleNotFoundError: No module",
            "inst",
        ),
    ],
)
def test_what_a_check_raises_is_a_finding_and_the_next_one_runs(error, colour, found, advice):
    told = []
    exam = Examination(told.append)
    exam.check("x/y", lambda: fail(error), advice="do this")
    assert exam.obtain("x/z", lambda: fail(error), advice="do this") is None
    exam.check("a/b", lambda: GREEN, advice="")
    assert told == exam.findings
    assert [finding.name for finding in told] == ["x/y", "x/z", "a/b"]
    assert told[0].colour == exam.worst == colour
    assert found in told[0].found
    assert told[0].advice.startswith(advice)


def test_a_check_that_fails_half_way_tells_its_failure_alone():
    def check():
        yield GREEN
        fail(OSError("disk"))

    exam = Examination()
    exam.check("x/y", check, advice="look")
    assert [finding.colour for finding in exam.findings] == ["yellow"]


def test_ctrl_c_ends_the_examination():
    with pytest.raises(KeyboardInterrupt):
        Examination().check("x/y", lambda: fail(KeyboardInterrupt()), advice="look")


def test_the_worst_colour_is_that_of_all_findings():
    exam = Examination()
    assert exam.worst == "green"
    exam.keep([Finding(name="a/c", colour="red", found="bad", advice="mend"), GREEN])
    assert exam.worst == "red"


@pytest.mark.parametrize(("colour", "advice"), [("green", "do"), ("yellow", ""), ("red", "")])
def test_only_what_is_not_green_says_what_to_do(colour, advice):
    with pytest.raises(ValueError, match="expected advice with yellow and red"):
        Finding(name="a/b", colour=colour, found="x", advice=advice)
