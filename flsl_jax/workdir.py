"""What a run leaves in its workdir, read back: the config, the metrics, the results of evaluations."""

import json
from pathlib import Path
from typing import Any

from flsl_jax.config import Config
from flsl_jax.config.saved import CONFIG_FILE, read_saved_config
from flsl_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"


def read_run_config(workdir: Path, *, at_start: bool = False) -> Config:
    """The config of a run, from the `config.json` in its workdir: as it was changed last or, with `at_start`, as it began.

    Raises:
        UserError: there is no such file, or it is not a config.
    """
    return read_saved_config(workdir / CONFIG_FILE, at_start=at_start)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if there is no file. What is no metrics, such as a torn line, is passed over."""
    return split_metrics(path)[0]


def split_metrics(path: Path) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The lines of a metrics.jsonl, and those that are none: torn, with foreign bytes, or no object with a step.

    Raises:
        OSError: the file cannot be read.
    """
    lines, foreign = [], []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # of JSON and of UTF-8
            values = None
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            lines.append(values)
        else:
            foreign.append(line)
    return lines, foreign


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every result in a folder and the folders in it, such as a run's `results/`, in the order of their paths.

    One that was written for the run in whose workdir it lies names that workdir as it is called now: runs are moved and
    renamed.

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
        found.append(values | {"model": _as_named_now(values["model"], path)})
    return found


def _as_named_now(model: dict[str, Any], path: Path) -> dict[str, Any]:
    """The description of a result's model, with the present path of its workdir if the result lies in that."""
    if not model.get("in_workdir"):
        return model
    kind, colon, place = model["source"].partition(":")
    if kind not in ("untrained", "pixels"):
        kind, colon, place = "", "", model["source"]
    before, below = Path(place), Path()
    if before.parent.name == "checkpoints":
        before, below = before.parent.parent, Path(*before.parts[-2:])
    folder = path.parent.parent if kind or below.parts else path.parent
    if folder.name != "results":
        return model
    workdir, name = folder.parent, str(model["name"])
    name = f"{workdir}{name.removeprefix(str(before))}" if name.startswith(f"{before}, ") else name
    return model | {"name": name, "source": f"{kind}{colon}{workdir / below}"}
