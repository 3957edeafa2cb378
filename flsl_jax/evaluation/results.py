"""Results: as a table for the terminal, and as `TASK.json` for the report and other programs."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from flsl_jax._version import __version__
from flsl_jax.errors import UserError, one_line
from flsl_jax.evaluation.task import TaskResult
from flsl_jax.evaluation.tasks import TASKS

# Rows of a table that are printed.
_MAX_ROWS = 30
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "scikit-learn", "pillow")


def result(
    name: str, settings: Any, measured: TaskResult, *, model: Mapping[str, Any], batch_size: int
) -> dict[str, Any]:
    """Everything about one evaluation as JSON values: what was measured, of which model, how, with what and when.

    Args:
        name: of the task.
        settings: the dataclass with every parameter of its protocol.
        measured: what `run_task` gave.
        model: description of the model: its name, source, step and sizes.
        batch_size: images encoded at a time.
    """
    devices = jax.local_devices()
    return {
        "task": name,
        "judges": TASKS[name].judges,
        "reference": TASKS[name].reference,
        "model": dict(model),
        "metrics": {key: float(value) for key, value in measured.scores.metrics.items()},
        "rows": [dict(row) for row in measured.scores.rows],
        "judged": dict(measured.scores.judged),
        "warnings": list(measured.scores.warnings),
        "settings": dataclasses.asdict(settings),
        "batch_size": batch_size,
        "images": measured.scores.images,
        "seconds": round(measured.seconds, 3),
        "images_per_sec": round(measured.scores.images / max(measured.seconds, 1e-9), 3),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "versions": {"flsl_jax": __version__, "python": platform.python_version()}
        | {library: importlib.metadata.version(library) for library in _LIBRARIES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def check_writable(folder: Path) -> None:
    """Makes the folder of the results.

    Raises:
        UserError: it cannot be made, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise UserError(f"--output={folder} cannot be made ({error.strerror}); name a folder that can") from error
    if not writable:
        raise UserError(f"--output={folder} cannot be written; name a folder that can")


def write_result(values: Mapping[str, Any], folder: Path) -> Path:
    """Writes `TASK.json` into a folder, whole or not at all; returns its path."""
    path = folder / f"{values['task']}.json"
    temporary = path.with_suffix(f".json.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(_finite(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def table(values: Mapping[str, Any]) -> str:
    """A result for the terminal: a line for each metric, the table of its rows, the reference to compare with."""
    model = values["model"]
    lines = [f"{values['task']} of {model['name']}"]
    lines += _aligned([(name, _shown_metric(name, value)) for name, value in values["metrics"].items()])
    lines += _rows(values["rows"], file=f"{values['task']}.json")
    lines += _remarks([values])
    if values["reference"]:
        lines += [f"to compare: {values['reference']}"]
    lines += [f"{values['images']} images in {values['seconds']:.1f} s, {values['images_per_sec']:.1f} images/s"]
    return "\n".join(lines)


def comparison(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Results of one task for the terminal: a line for each metric, a column for each model.

    Args:
        results: of several models, as `result` gives them.
        names: what the columns are called.
    """
    first = results[0]
    metrics = dict.fromkeys(metric for values in results for metric in values["metrics"])
    lines = [("", *names)]
    for metric in metrics:  # a model without a mean shift of its own has no values of modes
        lines.append((metric, *(_shown_metric(metric, values["metrics"].get(metric, "-")) for values in results)))
    reference = [f"to compare: {first['reference']}"] if first["reference"] else []
    head = f"{first['task']} of {len(results)} models, {first['images']} images"
    return "\n".join([head, *_aligned(lines), *_remarks(results), *reference])


def _remarks(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the metrics are of, and the warnings of all models, each once."""
    judged = ", ".join(f"{name} {_shown(value)}" for name, value in results[0]["judged"].items())
    warnings = dict.fromkeys(line for values in results for line in values["warnings"])
    return [f"judged: {judged}"] * bool(judged) + [f"WARNING: {one_line(line)}" for line in warnings]


def _rows(rows: Sequence[Mapping[str, Any]], *, file: str) -> list[str]:
    """The table of the rows below an empty line; without classes that do not occur, and cut off where it becomes long."""
    occurring = [row for row in rows if row.get("pixel_share") != 0]
    if not occurring:
        return []
    shown, left = occurring[:_MAX_ROWS], len(rows) - len(occurring)
    lines = ["", *_aligned([tuple(shown[0]), *(tuple(map(_shown, row.values())) for row in shown)])]
    if len(shown) < len(occurring):
        lines.append(f"  … {len(occurring) - len(shown)} more in {file}")
    if left:
        lines.append(f"  without {left} class{'es' * (left > 1)} of which no pixel is in the masks; {file} has them")
    return lines


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:]))])
        for line in cells
    ]


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else one_line(str(value))


def _shown_metric(name: str, value: float | str) -> str:
    return f"{value:.0f}" if name == "images" and isinstance(value, float) else _shown(value)


def _finite(values: Any) -> Any:
    """The same values, with None for floats that JSON cannot hold (NaN and infinities)."""
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
