"""The reasons of errors, in one line."""

import pytest

from flsl_jax.errors import reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.png"), "No such file or directory"),
        (ValueError("one\ntwo"), "one"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_reason_is_one_line(error, expected):
    assert reason(error) == expected
