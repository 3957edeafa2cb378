"""What is there of a study: which runs are finished, and what was measured of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flsl_jax.config.changes import differences
from flsl_jax.config.parsing import require
from flsl_jax.studies.grid import Cell
from flsl_jax.workdir import read_run_config

State = Literal["not started", "begun", "trained", "done"]

# Written into a run's folder when its training has reached its end.
_FINISHED = "finished.json"


def check_folder(cell: Cell) -> None:
    """Refuses a folder that holds another run than the study wants, in what changes a step.

    Raises:
        UserError: names the first key that differs.
    """
    if not (cell.folder / "config.json").exists():
        return
    for change in differences(read_run_config(cell.folder), cell.config):
        require(
            change.is_free,
            f"{cell.folder} holds a run with config.{change.key} = {change.old!r}, but the study wants {change.new!r}; name "
            "another --workdir, or remove that folder",
        )


def finished_step(cell: Cell) -> int | None:
    """Updates of a run that has reached the end that its config asks for; None if it has not."""
    values = _read(cell.folder / _FINISHED)
    if values is None or values.get("stop_at_step") != cell.config.stop_at_step:
        return None
    return values["step"]


def mark_finished(cell: Cell, step: int) -> None:
    """Notes that the run has reached its end."""
    write_json(cell.folder / _FINISHED, {"step": step, "stop_at_step": cell.config.stop_at_step})


def unmark(cell: Cell) -> None:
    """Takes that note back, because the run goes on."""
    (cell.folder / _FINISHED).unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured of a run: the trained network or a baseline. `step`: updates it was trained for."""

    name: str
    source: str
    folder: Path
    step: int | None


def subjects(cell: Cell) -> list[Subject]:
    """The trained network, and the baselines that are measured with it; nothing before the run is finished."""
    step = finished_step(cell)
    if step is None:
        return []
    own = Subject("trained", str(cell.folder), cell.folder / "results", step)
    steps = {"untrained": 0, "pixels": None}
    return [
        own,
        *(Subject(kind, f"{kind}:{cell.folder}", own.folder / kind, steps[kind]) for kind in cell.baselines),
    ]


def measured(cell: Cell, subject: Subject) -> dict[str, dict[str, float]]:
    """The metrics of each task that was measured of a subject at its step, with the settings that the study has."""
    found = {}
    for task in cell.tasks:
        values = _read(subject.folder / f"{task}.json")
        settings = _as_json(dataclasses.asdict(getattr(cell.config.evaluation, task)))
        if values and values.get("settings") == settings and values.get("model", {}).get("step") == subject.step:
            found[task] = {name: value for name, value in values["metrics"].items() if value is not None}
    return found


def state(cell: Cell) -> State:
    """How far a run is. "trained": its evaluations are missing."""
    of_run = subjects(cell)
    if not of_run:
        return "begun" if (cell.folder / "config.json").exists() else "not started"
    whole = all(len(measured(cell, subject)) == len(cell.tasks) for subject in of_run)
    return "done" if whole else "trained"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _as_json(values: Any) -> Any:
    return json.loads(json.dumps(values))
