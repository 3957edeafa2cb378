"""Config files by name and by path, from any folder, and what is said of those that are wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from flsl_jax.config import parse_config
from flsl_jax.config.files import config_names, load_config
from flsl_jax.config.saved import write_first_config
from flsl_jax.errors import UserError

ROOT = Path(__file__).parents[1]
CHANGE = "from configs import vits16\ndef get_config():\n    config = vits16.get_config()\n    config.{}\n    return config\n"


@pytest.mark.parametrize("name", config_names())
def test_every_name_is_a_whole_valid_config(name):
    assert parse_config(load_config(name).to_dict()) == parse_config(
        load_config(str(ROOT / f"configs/{name}.py")).to_dict()
    )


def test_the_names_are_the_files_of_configs():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert set(config_names()) == files - {"__init__", "evaluation"}


def test_a_file_anywhere_builds_on_a_config_and_on_its_neighbours(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "small.py").write_text("EPOCHS = 7\n")
    (tmp_path / "configs" / "mine.py").write_text(
        "from configs import small, vits16\n\n"
        "def get_config():\n    config = vits16.get_config()\n    config.epochs = small.EPOCHS\n    return config\n"
    )
    code = f"import sys; sys.path[0] = {str(ROOT)!r}; import flsl_jax; print(flsl_jax.get_config('configs/mine.py').epochs)"
    for path in ("", str(tmp_path)):  # the current folder on Python's path or not
        command = [sys.executable, "-c", code + f"; sys.path.append({path!r})"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stdout == "7\n", done.stderr


@pytest.mark.parametrize(("folder", "imported"), [("mine", "import beside"), ("configs", "from configs import beside")])
def test_a_file_outside_of_the_current_folder_has_its_neighbours_too(tmp_path, folder, imported):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "beside.py").write_text(CHANGE.format("epochs = 7"))
    (tmp_path / folder / "mine.py").write_text(f"{imported}\n\ndef get_config():\n    return beside.get_config()\n")
    code = (
        f"import sys; before = list(sys.path); import flsl_jax; "
        f"print(flsl_jax.get_config({str(tmp_path / folder / 'mine.py')!r}).epochs, sys.path == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "7 True\n", done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config():\n    return undefined\n", r"mine.py, line 2: NameError: name 'undefined' is not defined"),
        ("def get_config(:\n", r"mine.py: SyntaxError"),
        ("config = 3\n", r"mine.py defines no get_config\(\)"),
        ("def get_config():\n    return 3\n", r"get_config\(\) returned int; expected an ml_collections.ConfigDict"),
        (CHANGE.format("model.width = '192'"), r"mine.py, line 4: width is 192 \(str\); expected int$"),
        (CHANGE.format("views.student_area = 0.4"), r"student_area is 0.4 \(float\); expected tuple$"),
        (CHANGE.format("objective.teacher_temp = 0.05"), r"group of keys.*: teacher_temp.start = …\)$"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        load_config(str(path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", 'there is no config "quikstart"; did you mean "quickstart"?'),
        ("configs/vits61.py", 'there is no config "configs/vits61.py"; did you mean "vits16"?'),
        ("other.py", 'there is no config "other.py"; expected a Python file with get_config(), or one of ablation, '),
    ],
)
def test_a_name_that_is_nothing_is_refused_with_the_nearest(name, message):
    with pytest.raises(UserError) as refused:
        load_config(name)
    assert message in str(refused.value)


def test_what_follows_a_colon_is_the_argument_of_get_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\ndef get_config(kind):\n    return ConfigDict({'kind': kind})\n"
    )
    assert load_config(f"{path}:large").kind == "large"


def test_a_run_is_a_config_by_its_folder_and_by_its_file(tmp_path, monkeypatch):
    config = parse_config(load_config("vits16").to_dict() | {"seed": 7})
    write_first_config(config, tmp_path / "quickstart" / "config.json")
    for place in (tmp_path / "quickstart", tmp_path / "quickstart" / "config.json"):
        assert parse_config(load_config(str(place)).to_dict()) == config
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart").seed == 0  # the name of a config comes before a folder
    with pytest.raises(UserError, match=r"gone/config\.json is not there; name the workdir of a run$"):
        load_config("gone/config.json")
