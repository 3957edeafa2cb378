"""The command as a person or a script starts it: text, JSON, exit codes, and never a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def doctor(*flags, path=""):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in (path, str(ROOT)) if part)}
    command = [sys.executable, "-m", "flsl_jax.doctor", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, env=environment)


def test_json_names_every_finding_and_the_exit_code_is_the_worst_of_them(tmp_path):
    done = doctor("--config=tests/tiny.py", f"--workdir={tmp_path / 'run'}", "--json")
    values = json.loads(done.stdout)
    assert done.stderr == ""
    assert values["worst"] == "yellow", "32 scenes are few"
    assert done.returncode == 1
    names = {finding["name"] for finding in values["findings"]}
    assert {"machine/packages", "machine/speed", "config/memory", "data/reading", "checkpoint/whole"} <= names
    assert not (tmp_path / "run").exists()


def test_a_workdir_alone_has_the_config_of_its_run_or_lacks_it(tmp_path):
    done = doctor(f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == ""
    assert "config.json is not there" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1].endswith("mend the red lines first")


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (("--config=tests/tiny.py", "--config.batch_size=9", "--config.compute.micro_batches=2"), "does not divide"),
        (
            ("--config=tests/tiny.py", "--config.data.name=folder", "--config.data.root=nowhere"),
            "nowhere cannot be read",
        ),
    ],
)
def test_what_a_training_would_refuse_is_red(flags, found):
    done = doctor(*flags)
    assert (done.returncode, done.stderr) == (2, "")
    assert found in " ".join(done.stdout.split())


def test_a_wrong_flag_is_one_line():
    done = doctor("--confg=quickstart")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: command line: unknown flag --confg; did you mean --config?\n"


def test_a_package_that_cannot_be_imported_is_a_red_line(tmp_path):
    (tmp_path / "orbax").mkdir()
    (tmp_path / "orbax" / "__init__.py").write_text("raise ImportError('half installed')\n")
    done = doctor("--config=tests/tiny.py", path=str(tmp_path))
    assert (done.returncode, done.stderr) == (2, "")
    assert "a package is missing or broken (ImportError: half installed)" in " ".join(done.stdout.split())
    assert "machine" in done.stdout


def test_help_is_for_a_newcomer():
    done = doctor("--help")
    assert done.returncode == 0
    for words in ("flsl doctor --config=", "The exit code is 0 if", "--[no]json", "Nothing on the disk is changed"):
        assert words in done.stdout
