"""What a run leaves in its workdir, read back: the config, the metrics, the results of evaluations."""

import json
from pathlib import Path
from typing import Any

from flsl_jax.config import Config
from flsl_jax.config.saved import read_saved_config
from flsl_jax.errors import UserError

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"


def read_run_config(workdir: Path, *, at_start: bool = False) -> Config:
    """The config of a run, from the `config.json` in its workdir: as it was changed last or, with `at_start`, as it began.

    Raises:
        UserError: there is no such file, or it is not a config.
    """
    return read_saved_config(workdir / CONFIG_FILE, at_start=at_start)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if there is no file. An incomplete last line, left by a killed run, is skipped."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every result in a folder and the folders in it, such as a run's `results/`, in the order of their paths.

    Raises:
        UserError: a file is not a result.
    """
    found = []
    for path in sorted(folder.rglob("*.json")):
        try:
            values = json.loads(path.read_text())
            missing = {"task", "metrics", "model"} - values.keys()
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a result of flsl_jax.evaluate ({error}); remove it") from error
        if missing:
            raise UserError(
                f"{path}: not a result of flsl_jax.evaluate (it lacks {', '.join(sorted(missing))}); remove it"
            )
        found.append(values)
    return found
