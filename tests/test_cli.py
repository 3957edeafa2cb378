"""The command `flsl`: what a newcomer reads, and that each command runs the module of its name."""

import subprocess
import sys
from pathlib import Path

import pytest

import flsl_jax
from flsl_jax.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FLSL = [sys.executable, "-m", "flsl_jax"]


def flsl(*arguments):
    return subprocess.run([*FLSL, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_lists_every_command_and_version_is_the_packages():
    done = flsl("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert flsl("--version").stdout == f"flsl_jax {flsl_jax.__version__}\n"


def test_no_command_shows_the_help_and_is_a_failure():
    done = flsl()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == flsl("--help").stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "error: unknown command 'trian'; did you mean 'train'?"),
        (
            "dance",
            "unknown command 'dance'; there are train, evaluate, visualize, study, transfer, convert, embed, prepare, doctor",
        ),
        (
            "--config=quickstart",
            "a command comes first: train, evaluate, visualize, study, transfer, convert, embed, prepare, doctor",
        ),
    ],
)
def test_a_wrong_command_is_one_line(command, message):
    done = flsl(command, "--help")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["train", "convert"])
def test_a_commands_help_and_errors_are_those_of_its_module(command):
    module = [sys.executable, "-m", f"flsl_jax.{COMMANDS[command][0]}"]
    for flag in ("--help", "--workdri=x"):
        same = subprocess.run([*module, flag], cwd=ROOT, capture_output=True, text=True, timeout=120)
        done = flsl(command, flag)
        assert (done.returncode, done.stdout, done.stderr) == (same.returncode, same.stdout, same.stderr)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_version_whatever_else_is_said(command):
    expected = (0, f"flsl_jax {flsl_jax.__version__}\n", "")
    module = [sys.executable, "-m", f"flsl_jax.{COMMANDS[command][0]}", "--nonsense=1", "--version"]
    done = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == expected
    assert "--[no]version: Print the version" in flsl(command, "--help").stdout
    done = flsl(command, "--version")
    assert (done.returncode, done.stdout, done.stderr) == expected


def test_the_version_of_a_command_takes_no_jax():
    code = "import sys; from flsl_jax.cli import main\ntry: main()\nfinally: print('jax' in sys.modules)"
    arguments = [sys.executable, "-c", code, "evaluate", "--version"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == f"flsl_jax {flsl_jax.__version__}\nFalse\n"
