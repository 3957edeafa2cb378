"""The reasons of errors, in one line."""

import errno

import pytest

from flsl_jax.data.images.decode import DecodeError, decode_image
from flsl_jax.errors import UserError, import_problem, not_fatal, reason


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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "torch is not installed; pip install torch"),
        (
            ModuleNotFoundError("No module named 'sympy'", name="sympy"),
            "torch is installed but cannot be imported (ModuleNotFoundError: No module named 'sympy'); repair it",
        ),
        (OSError("libc10.so\nmore"), "torch is installed but cannot be imported (OSError: libc10.so); repair it"),
    ],
)
def test_what_is_not_installed_is_told_from_what_is_broken(error, expected):
    assert import_problem(error, package="torch", install="pip install torch") == expected


@pytest.mark.parametrize(
    ("name", "shown"), [("two\nlines\r.jpg", r"two\nlines\r.jpg"), ("\udcff é\x1b[1m\u2028", r"\udcff é\x1b[1m\u2028")]
)
def test_a_name_with_line_breaks_does_not_break_the_line(name, shown):
    assert str(UserError(f"image {name} × …")) == f"image {shown} × …"
    with pytest.raises(DecodeError) as error:
        decode_image(b"nothing", name=name)
    assert shown in str(error.value)


def test_what_is_worth_less_does_not_end_what_is_worth_more(caplog):
    with not_fatal("curves.png"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caplog.messages == ["curves.png could not be written (No space left on device)"]
