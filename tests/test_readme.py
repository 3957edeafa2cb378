"""What README and docs promise to run: commands name real files, modules, flags and config keys."""

import importlib.util
import re
import shlex
import typing
from pathlib import Path

import pytest

from flsl_jax.cli import COMMANDS
from flsl_jax.config import EvaluationConfig, parse_config
from flsl_jax.config.files import config_names
from flsl_jax.transfer.config import parse_transfer_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def commands(page):
    """Lines of code blocks that run `flsl`, Python modules or scripts of launch/, without comments."""
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["flsl"] or "-m" in words or any(word.startswith("launch/") for word in words):
                yield words


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_name_real_files_and_keys(page):
    for words in commands(page):
        files = [word for word in words if word.startswith(("launch/", "configs/"))]
        named = [word.split("=", 1)[1] for word in words if word.startswith("--config=")]
        shipped = [*config_names(), *(f"transfer/{path.stem}" for path in (ROOT / "configs" / "transfer").glob("*.py"))]
        files += [f"configs/{name}.py" if name in shipped else name for name in named]
        assert [name for name in files if not (ROOT / name).exists()] == [], words
        if words[0] == "flsl":
            assert words[1] in ("--help", *COMMANDS), words
        if "-m" in words:
            module = words[words.index("-m") + 1]
            assert module in ("pip", "venv") or importlib.util.find_spec(module), words
            check_flags(module, words)
        elif words[0] == "flsl" and words[1] in COMMANDS:
            check_flags(f"flsl_jax.{COMMANDS[words[1]][0]}", words)
        configs = [name for name in files if name.startswith("configs/")]
        keys = [word[len("--config.") :].split("=", 1)[0] for word in words if word.startswith("--config.")]
        if configs:
            check_keys(configs[0], keys)


def check_flags(module, words):
    """Flags are defined in the module; those with a dot are keys of an evaluation's settings."""
    if not module.startswith(("flsl_jax", "benchmarks")) or module == "flsl_jax":
        return
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations:  # a package is run by its __main__
        spec = importlib.util.find_spec(f"{module}.__main__")
    source = Path(spec.origin).read_text()
    for name in (word[2:].split("=", 1)[0] for word in words if word.startswith("--")):
        group, *keys = name.split(".")
        if group in ("help", "version", "config"):
            continue
        if not keys:
            assert re.search(rf'"(--)?{name}"', source), f"{module} has no flag --{name}"
        kind = EvaluationConfig if keys else None
        for key in (group, *keys) if keys else ():
            assert key in typing.get_type_hints(kind), f"{module} has no flag --{name}"
            kind = typing.get_type_hints(kind)[key]


def check_keys(config, keys):
    spec = importlib.util.spec_from_file_location("config", ROOT / config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = module.get_config()
    parse = parse_transfer_config if config.startswith("configs/transfer/") else parse_config
    parse(settings.to_dict())
    for key in keys:
        value = settings
        for name in key.split("."):
            assert name in value, f"{config} has no {key}"
            value = value[name]
