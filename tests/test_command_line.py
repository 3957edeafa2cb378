"""A command line that is wrong: one line that names the flag and says what was expected."""

import os
import signal
import subprocess
import sys

import pytest
from absl import flags

from flsl_jax.command_line import local_path, parse_flags
from flsl_jax.errors import UserError


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_before_a_run_has_begun_ends_it_with_the_code_to_go_on(name):
    code = "import os, signal; from flsl_jax import keyboard; keyboard.stop_early(75); os.kill(os.getpid(), signal.%s)"
    ended = subprocess.run([sys.executable, "-c", code % name], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (75, f"stopped by {name}; the same command goes on\n")


@pytest.fixture
def flag_values():
    values = flags.FlagValues()
    flags.DEFINE_integer("count", 1, "", flag_values=values)
    flags.DEFINE_float("rate", 1.0, "", flag_values=values)
    flags.DEFINE_bool("flip", False, "", flag_values=values)
    flags.DEFINE_enum("kind", "a", ["a", "b"], "", flag_values=values)
    return values


def test_a_right_command_line_sets_the_flags_and_leaves_the_rest(flag_values):
    assert parse_flags(flag_values, ["program", "--count=3", "file", "--flip"]) == ["program", "file"]
    assert (flag_values.count, flag_values.rate, flag_values.flip) == (3, 1.0, True)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--count=5.0", "--count=5.0: expected a whole number"),
        ("--rate=fast", "--rate=fast: expected a number"),
        ("--flip=perhaps", "--flip=perhaps: expected True or False"),
        ("--kind=c", "--kind=c: value should be one of <a|b>"),
        ("--cuont=3", "unknown flag --cuont"),
    ],
)
def test_a_wrong_flag_is_named_in_one_line_with_what_was_expected(flag_values, argument, message):
    with pytest.raises(UserError) as refused:
        parse_flags(flag_values, ["program", argument])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_interrupt_from_the_keyboard_is_one_line_and_ends_as_by_the_signal():
    code = "from flsl_jax.command_line import run_main\ndef main(): raise KeyboardInterrupt\nrun_main(main)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "interrupted\n")


def test_an_interrupt_during_imports_is_not_swallowed(tmp_path):
    (tmp_path / "slow.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)")
    (tmp_path / "greedy.py").write_text("try:\n    import slow\nexcept BaseException:\n    print('swallowed')")
    for started in ("", "keyboard.running(); "):
        code = f"from flsl_jax import keyboard; keyboard.watch(); {started}import greedy"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        )
        assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "interrupted\n")


def test_output_that_nobody_reads_ends_the_command_quietly():
    code = "from flsl_jax.command_line import run_main; run_main(lambda: print('row\\n' * 100_000) or 0)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
        assert command.stdout.readline() == b"row\n"
        command.stdout.close()
        assert (command.wait(), command.stderr.read()) == (141, b"")


def test_a_url_is_no_path_to_write_to():
    with pytest.raises(
        UserError, match=r"^--output=gs://bucket/x is no path of this machine; name one, or mount the bucket"
    ):
        local_path("gs://bucket/x", flag="--output")
    assert str(local_path("runs/a:b", flag="--output")) == "runs/a:b"
