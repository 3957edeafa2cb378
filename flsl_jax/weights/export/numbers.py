"""The numbers of a model card: what was measured of the model, and apart from it what others of its run are for comparison."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flsl_jax.weights.export.trained import Trained
from flsl_jax.workdir import METRICS_FILE, read_metrics, read_results

_PIXELS = "raw pixels"
# How metrics.jsonl shortens the task that it had first.
_KNN_PREFIX, _KNN = "knn_", "bbox_knn"


class Row(NamedTuple):
    """A metric of a task, with its values by column; the columns are those of `Numbers`."""

    task: str
    metric: str
    values: Mapping[str, float]


class Numbers(NamedTuple):
    """`own`: the column of the model itself. `others`: columns to compare with, of which each has a value at least."""

    own: str
    others: Sequence[str]
    rows: Sequence[Row]


class _Value(NamedTuple):
    """`protocol`: whatever tells rows of one task apart."""

    protocol: str
    task: str
    metric: str
    column: str
    value: float


def read_numbers(trained: Trained) -> Numbers:
    """What the training measured and every result in the run's folder, up to the step of the model.

    Results of equal protocols share a row. Values of other steps, of what the run started from and of raw pixels have columns
    of their own.
    """
    own = f"step {trained.step}"
    if trained.workdir is None:
        return Numbers(own=own, others=(), rows=())
    values = [*_of_training(trained, trained.workdir), *_of_results(trained, trained.workdir)]
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for value in values:
        rows.setdefault((value.protocol, value.task, value.metric), {})[value.column] = value.value
    columns = dict.fromkeys(value.column for value in values if value.column != own)
    others = sorted(
        columns, key=lambda column: (column == _PIXELS, column == _start(trained), not column.startswith("step"))
    )
    return Numbers(own=own, others=others, rows=[Row(task, name, cells) for (_, task, name), cells in rows.items()])


def _of_training(trained: Trained, workdir: Path) -> Iterator[_Value]:
    """The last measurement of each task in the training, the one before the first step, and raw pixels."""
    lines = [line for line in read_metrics(workdir / METRICS_FILE) if line["step"] <= (trained.step or 0)]
    for line in lines:
        for key, value in line.items():
            task, metric = (_KNN, key.removeprefix(_KNN_PREFIX)) if key.startswith(_KNN_PREFIX) else _split(key)
            if task and value is not None:
                column = f"step {line['step']}" if line["step"] else _start(trained)
                column = _PIXELS if metric.startswith("pixels_") else column
                if column in (_PIXELS, _start(trained)) or line["step"] == _last(lines, key):
                    yield _Value(
                        "training", f"{task}, in training", metric.removeprefix("pixels_"), column, float(value)
                    )


def _split(key: str) -> tuple[str, str]:
    task, _, metric = key.partition("/")
    return (task, metric) if metric else ("", key)


def _last(lines: Sequence[Mapping[str, Any]], key: str) -> int:
    return max(line["step"] for line in lines if key in line)


def _of_results(trained: Trained, workdir: Path) -> Iterator[_Value]:
    for result in read_results(workdir / "results"):
        step = result["model"].get("step")
        if step is not None and trained.step is not None and step > trained.step:
            continue
        for metric, value in result["metrics"].items():
            if value is not None:
                yield _Value(
                    str(result.get("settings")), result["task"], metric, _column(result["model"], trained), value
                )


def _column(model: Mapping[str, Any], trained: Trained) -> str:
    """Whose result it is: a step of this run, what it started from, raw pixels, or another model by its name."""
    source = str(model.get("source") or "")
    kind, place = source.partition(":")[0], Path(source)
    if kind == "untrained":
        return _start(trained)
    if kind == "pixels":
        return _PIXELS
    if place.parent.name == "checkpoints":
        place = place.parent.parent
    if source and place.name != trained.source:
        return str(model.get("name") or source)
    return f"step {model.get('step')}"


def _start(trained: Trained) -> str:
    return "at the start" if trained.config is not None and trained.config.init_from else "untrained"
