"""Config and study files: those that come with the package by their name, and any other by its path.

In a checkout they are in `configs/` at the top, in an installed package in the folder `configs` of the package. A config file
anywhere may build on them with `from configs import vits16`, and on its neighbours with `import neighbour` or, in a folder
`configs`, `from configs import neighbour`.
"""

import ast
import contextlib
import dataclasses
import importlib
import importlib.util
import re
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from flsl_jax.config.overrides import mark_schedules, register_parsers
from flsl_jax.config.parsing import nearest_key
from flsl_jax.config.saved import CONFIG_FILE, read_saved_config
from flsl_jax.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")

# `--help` lists --config among the flags of the module that asks for it, not of this one.
flags.disclaim_key_flags()

# Files in the folder that hold groups of keys for the others, not a whole configuration.
_PARTS = {"__init__", "evaluation"}
_RETURNED = {"config": "ConfigDict", "study": "grid"}


def config_names() -> list[str]:
    """The names of the configs that come with the package, sorted."""
    return sorted(path.stem for path in _shipped_folder().glob("*.py") if path.stem not in _PARTS)


def load_config(name: str, *, read_saved: Callable[[Path], Any] = read_saved_config) -> ConfigDict:
    """What `get_config()` of a config file returns.

    Args:
        name: the name of a config that comes with the package, such as "quickstart", the path of a Python file, or that of
            a run's workdir or its `config.json`. What follows a colon is given to `get_config` as its argument.
        read_saved: from the path of such a `config.json` to the dataclass that it holds; by default that of pretraining.

    Raises:
        UserError: there is no such name or file, or it is not a config file, or it fails; the message names the line.
    """
    place, colon, argument = name.partition(":")
    run = Path(place).expanduser()
    if (run / CONFIG_FILE).is_file() and place not in config_names():
        run = run / CONFIG_FILE
    if run.suffix == ".json":
        return ConfigDict(dataclasses.asdict(read_saved(run)))
    path = _find(place, names=config_names(), folder=_shipped_folder(), kind="config", function="get_config")
    config = _call(path, "get_config", *([argument] if colon else []))
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}; expected an ml_collections.ConfigDict")
    return config


def study_names() -> list[str]:
    """The names of the studies that come with the package, sorted."""
    return sorted(path.stem for path in _studies_folder().glob("*.py") if path.stem not in _PARTS)


def describe_studies() -> str:
    """The studies that come with the package, each with the first line of its file, for `--help`."""
    names = study_names()
    width = max(map(len, names))
    texts = {name: (_studies_folder() / f"{name}.py").read_text(encoding="utf-8") for name in names}
    return "\n".join(
        f"  {name.ljust(width)}  {(ast.get_docstring(ast.parse(text)) or '').partition(chr(10))[0]}"
        for name, text in texts.items()
    )


def load_study_file(name: str, config: ConfigDict) -> Any:
    """What `get_study(config)` of a study file returns.

    Args:
        name: the name of a study that comes with the package, such as "centroids", or the path of a Python file.
        config: the base that the study varies.

    Raises:
        UserError: there is no such name or file, or it is not a study file, or it fails; the message names the line.
    """
    path = _find(name, names=study_names(), folder=_studies_folder(), kind="study", function="get_study")
    return _call(path, "get_study", config)


def _find(place: str, *, names: Sequence[str], folder: Path, kind: str, function: str) -> Path:
    """The file of a shipped name, or the path itself.

    Args:
        place: a name or a path.
        names: the files without suffix in `folder` that may be named so.
        folder: where those are.
        kind, function: what the file is and the function that it defines, for the error message.

    Raises:
        UserError: it is neither; says the nearest name.
    """
    shipped = folder / f"{place}.py"
    if place in names or ("/" in place and shipped.is_file()):  # such as transfer/scenes_boxes
        return shipped
    path = Path(place).expanduser()
    if not path.is_file():
        near = nearest_key(path.stem, names)
        others = f"expected a Python file with {function}(), or one of {', '.join(names)}"
        raise UserError(f'there is no {kind} "{place}"; {near if "did you mean" in near else others}')
    return path


def _call(path: Path, function: str, *arguments: Any) -> Any:
    """Runs a Python file and calls one of its functions.

    Raises:
        UserError: the file lacks the function, or anything in it fails; the message names the line.
    """
    kind = function.removeprefix("get_")
    spec = importlib.util.spec_from_file_location(f"_{kind}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; a {kind} file ends in .py and defines {function}()")
    module = importlib.util.module_from_spec(spec)
    try:
        with _neighbours(path.absolute().parent):
            spec.loader.exec_module(module)
            if not hasattr(module, function):
                raise UserError(
                    f"{path} defines no {function}(); a {kind} file returns its {_RETURNED[kind]} from that function"
                )
            return getattr(module, function)(*arguments)
    except UserError:
        raise
    except Exception as error:  # whatever the user's own file raises
        raise UserError(f"{_line(path, error)}: {_plain_words(error)}") from error


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Lets a config file import those beside it; what else has such a name comes first, but for a folder `configs`."""
    package = offer_configs()
    before = list(package.__path__)
    if folder.name == "configs":
        package.__path__ = list(dict.fromkeys([str(folder), *before]))
    sys.path.append(str(folder))
    try:
        yield
    finally:
        package.__path__ = before
        with contextlib.suppress(ValueError):  # the file itself may have changed the path
            sys.path.remove(str(folder))


def offer_configs() -> types.ModuleType:
    """Makes `from configs import vits16` work in any config file, and returns the package.

    Where Python's path or the current folder has a folder `configs` of its own, its files come first and those of flsl_jax
    after them.
    """
    try:
        package = importlib.import_module("configs")
    except ModuleNotFoundError:
        package = types.ModuleType("configs")
        package.__path__ = []
        sys.modules["configs"] = package
    more = [str(folder) for folder in (Path.cwd() / "configs", _shipped_folder()) if folder.is_dir()]
    package.__path__ = list(dict.fromkeys([*package.__path__, *more]))
    return package


def define_config_flag(
    name: str, *, help_string: str, read_saved: Callable[[Path], Any] = read_saved_config
) -> flags.FlagHolder:
    """The flag `--NAME=CONFIG`, as `load_config` takes it, and with it `--NAME.key=value` for every key of that config."""
    register_parsers()
    holder = config_flags.DEFINE_config_file(name, help_string=help_string)
    flags.FLAGS[name].parser = _ConfigParser(read_saved)
    return holder


def given_keys(name: str) -> frozenset[str]:
    """The keys that the command line sets by `--NAME.key=value`, by their dotted names below the config."""
    return frozenset(config_flags.get_override_values(flags.FLAGS[name]))


def describe_config(name: str) -> str:
    """The keys of a config with their values, group by group, for `--help`; without those of the evaluation tasks."""
    config = load_config(name).to_dict()
    alone = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = {"": alone} | {f"{key}: ": value for key, value in config.items() if isinstance(value, dict)}
    lines = [title + " ".join(_shown(group)) for title, group in groups.items()]
    return "\n".join(textwrap.fill(line, 100, break_on_hyphens=False, subsequent_indent="    ") for line in lines)


class _ConfigParser(flags.ArgumentParser):
    """Reads a config by `load_config`, instead of a file alone."""

    def __init__(self, read_saved: Callable[[Path], Any]) -> None:
        super().__init__()
        self._read_saved = read_saved

    def parse(self, argument: str) -> ConfigDict:
        return mark_schedules(load_config(argument, read_saved=self._read_saved)).lock()

    def flag_type(self) -> str:
        return "config"


# What ml_collections says where a file gives a key a value of another type.
_OVERRIDE = re.compile(
    r"Could not override field '(.*?)' \(reference\)\. (.*) is of original type <class '(.*?)'> "
    r"and cannot be casted to type <class '(.*?)'>"
)


def _plain_words(error: Exception) -> str:
    """An exception of a config file: its type and message, or what a key takes if it was given something else."""
    message = " ".join(str(error).split())
    other_type = _OVERRIDE.fullmatch(message)
    if other_type is None:
        return f"{type(error).__name__}: {message}"
    key, value, given, expected = other_type.groups()
    if expected.endswith("ConfigDict"):
        expected = f"a group of keys, to be set one by one (.start and .end of a schedule: {key}.start = …)"
    return f"{key} is {value} ({given}); expected {expected}"


def _line(path: Path, error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _shown(group: dict[str, Any]) -> Iterator[str]:
    for key, value in group.items():
        if not isinstance(value, dict):
            yield f"{key}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        elif "start" in value:  # a schedule
            yield from (f"{key}.{inner}" for inner in _shown(value))


def _shipped_folder() -> Path:
    return next(folder for folder in _FOLDERS if folder.is_dir())


def _studies_folder() -> Path:
    return _shipped_folder() / "studies"
