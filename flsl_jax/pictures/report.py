"""`report.html`: one page about one or several models, to read on a screen, a phone or paper, without a network."""

import base64
import dataclasses
import datetime
import html
import importlib.resources
import json
import os
import string
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from flsl_jax.config import Config, to_dict
from flsl_jax.errors import UserError
from flsl_jax.pictures.curves import compare_curves, save_curves
from flsl_jax.pictures.gallery import CURVES, Drawing, Subject, metrics_by_name
from flsl_jax.pictures.runs import Run

_MIME = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True)
class _Section:
    """A part of the page: its heading, from which its anchor is made, and its HTML."""

    heading: str
    body: str


def write_report(path: Path, subjects: Sequence[Subject], drawings: Sequence[Drawing]) -> None:
    """Writes the page, whole or not at all.

    It says what was trained; it shows the curves with the monitor's alarms, the results of evaluations beside the numbers
    that the paper or others report, and the pictures. Models with equal protocols are compared in one table.

    Args:
        path: of the page; its folder is made if it does not exist.
        subjects: the models; of one without a run there are a name and pictures only.
        drawings: embedded in this order, except the curves, which have a section of their own.

    Raises:
        UserError: the page cannot be written.
    """
    sections = [
        _Section("What was trained", "".join(map(_trained, subjects))),
        _Section(
            "Training", _compared(subjects) + "".join(map(_training, [subject for subject in subjects if subject.run]))
        ),
        _Section("Evaluation", _evaluation(subjects)),
        _Section("What it sees", _pictures(drawings)),
    ]
    shown = [section for section in sections if section.body]
    names = " · ".join(subject.name for subject in subjects)
    page = string.Template(importlib.resources.files("flsl_jax.pictures").joinpath("report.html").read_text("utf-8"))
    text = page.substitute(
        title=_escape(names),
        subtitle=f"FLSL features, as of {datetime.datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        navigation=" ".join(f'<a href="#{_anchor(section)}">{section.heading}</a>' for section in shown),
        sections="\n".join(
            f'<section id="{_anchor(section)}">\n<h2>{section.heading}</h2>\n{section.body}</section>'
            for section in shown
        ),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); name another --output") from error


def _trained(subject: Subject) -> str:
    """What one model is and how it was trained."""
    run = subject.run
    heading = f"<h3>{_escape(subject.name)}</h3>"
    if run is None:
        size = f"{subject.encoder.image_size} px, patches of {subject.encoder.patch_size} px"
        return f"{heading}<p>{size}. Not a run of this program: nothing is known about its training.</p>"
    rows = [(_escape(name), _escape(value)) for name, value in _facts(run)]
    config = _escape(json.dumps(to_dict(run.config), indent=2))
    return f"{heading}{_table(rows)}<details><summary>Every key of its config</summary><pre>{config}</pre></details>\n"


def _facts(run: Run) -> list[tuple[str, str]]:
    config = run.config
    model, objective = config.model, config.objective
    parts = ", ".join(f"{name} {count:,}" for name, count in run.parameters.items())
    updates = f"{run.step:,} of {config.batch_size} images"
    facts = [
        (
            "network",
            f"ViT, {model.depth} blocks, width {model.width}, {model.num_heads} heads, "
            f"patches of {model.patch_size} px",
        ),
        ("parameters", f"{sum(run.parameters.values()):,} ({parts})"),
        ("views", f"{config.views.recipe} recipe, {config.views.size} px"),
        ("data", _data(config)),
        ("updates", f"{updates}; config: {config.epochs} epochs"),
        (
            "objective",
            f"υ {_ends(objective.intra_weight)}, η {objective.inter_weight:g}, γ {objective.volume_weight:g}; "
            f"{config.head.centroids} centroids; targets: {objective.targets}",
        ),
        (
            "optimiser",
            f"AdamW, lr {config.optimizer.lr:g} per 256 images, weight decay {_ends(config.optimizer.weight_decay)}, "
            f"teacher momentum {_ends(config.teacher.momentum)}, seed {config.seed}",
        ),
    ]
    if run.training_seconds is not None:
        facts.append(("time", f"{_duration(run.training_seconds)} of steps, without evaluations and checkpoints"))
    return facts


def _data(config: Config) -> str:
    data = config.data
    words = [data.name, data.dataset, data.root, f"{data.count} of {data.scene_size} px" if data.count else ""]
    return " ".join(filter(None, words))


def _ends(schedule: Any) -> str:
    return f"{schedule.start:g}" if schedule.start == schedule.end else f"{schedule.start:g} → {schedule.end:g}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _compared(subjects: Sequence[Subject]) -> str:
    """The curves of several runs in one figure; nothing for a single run."""
    runs = metrics_by_name(subjects)
    if len(runs) < 2:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "curves.svg"
        compare_curves(runs, drawn)
        return _figure(drawn, f"Curves of {', '.join(runs)}.", wide=True)


def _training(subject: Subject) -> str:
    """The curves and alarms of one run."""
    run = subject.run
    assert run is not None
    if not run.metrics:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "curves.svg"
        save_curves(run.metrics, drawn, log_centroids=run.log_centroids, alarms=run.alarms)
        curves = _figure(
            drawn,
            f"Curves of {subject.name}; a dotted line marks where the monitor first raised an alarm.",
            wide=True,
        )
    if not run.alarms:
        return f"<h3>{_escape(subject.name)}</h3>{curves}<p>The monitor raised no alarm.</p>\n"
    rows = [(f"{alarm.step:,}", f"{_escape(alarm.name)}: {_escape(alarm.message)}") for alarm in run.alarms]
    caption = "Alarms of the monitor: where each was first raised, and where it was repeated."
    table = _table(rows, head=("step", "alarm"), caption=caption)
    return f'<h3>{_escape(subject.name)}</h3>{curves}<div class="alarm">{table}</div>\n'


def _evaluation(subjects: Sequence[Subject]) -> str:
    """A table for each protocol, models in columns and metrics in rows, and below it each model's own table."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for subject in subjects:
        for result in subject.run.results if subject.run else ():
            same = json.dumps([result["task"], result.get("settings")], sort_keys=True)
            if result not in groups.setdefault(same, []):
                groups[same].append(result)
    return "".join(_protocol(sorted(results, key=_baseline_rank)) for results in groups.values())


def _baseline_rank(result: Mapping[str, Any]) -> int:
    """Models come first, then the untrained network, then raw pixels."""
    kind = result["model"].get("source", "").partition(":")[0]
    return {"untrained": 1, "pixels": 2}.get(kind, 0)


def _protocol(results: Sequence[Mapping[str, Any]]) -> str:
    first = results[0]
    metrics = dict.fromkeys(name for result in results for name in result["metrics"])
    rows = [(_escape(name), *(_number(result["metrics"].get(name)) for result in results)) for name in metrics]
    parts = [f"<h3>{_escape(first['task'])}</h3>", f"<p>{_escape(first['judges'])}</p>" if first.get("judges") else ""]
    names = _short_names([result["model"]["name"] for result in results])
    parts.append(_table(rows, head=("", *map(_escape, names)), numbers=True))
    if first.get("reference"):
        reference = f"To compare, by the same protocol on the data named here: {_escape(first['reference'])}"
        parts.append(f'<p class="soft">{reference}</p>')
    for name, result in zip(names, results):
        if result.get("rows"):
            table = _rows_table(result["rows"])
            parts.append(f"<details><summary>In detail: {_escape(name)}</summary>{table}</details>")
    settings = json.dumps(first.get("settings", {}), indent=2)
    parts.append(
        f"<details><summary>Every parameter of the protocol</summary><pre>{_escape(settings)}</pre></details>\n"
    )
    return "".join(parts)


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [[_number(value) for value in row.values()] for row in rows]
    return _table(cells, head=[_escape(name) for name in rows[0]], numbers=True)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else _escape(str(value))


def _table(rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), caption: str = "", numbers: bool = False) -> str:
    """A table of cells that are HTML, which scrolls if it is too wide; the first column has the headings of the rows."""
    kind = ' class="number"' if numbers else ""
    lines = ['<div class="scroll"><table>', f"<caption>{caption}</caption>" if caption else ""]
    if head:
        cells = "".join(f"<th{kind}>{cell}</th>" for cell in head[1:])
        lines.append(f"<thead><tr><th>{head[0]}</th>{cells}</tr></thead>")
    lines.append("<tbody>")
    for row in rows:
        lines.append(f"<tr><th>{row[0]}</th>{''.join(f'<td{kind}>{cell}</td>' for cell in row[1:])}</tr>")
    return "\n".join([*filter(None, lines), "</tbody></table></div>\n"])


def _figure(path: Path, caption: str, *, width: int = 960, wide: bool = False) -> str:
    """An embedded picture of `width` CSS pixels; `wide` ones grow with the page, and narrow screens scroll."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    image = f'<img src="data:{_MIME[path.suffix]};base64,{data}" alt="{_escape(caption)}">'
    kind = ' class="wide"' if wide else ""
    return (
        f'<figure{kind} style="--width: {width}px"><div class="scroll">{image}</div>'
        f"<figcaption>{_escape(caption)}</figcaption></figure>\n"
    )


def _pictures(drawings: Sequence[Drawing]) -> str:
    """All pictures but the curves, which have a section of their own."""
    figures = []
    for drawing in drawings:
        if drawing.kind != CURVES:
            with Image.open(drawing.path) as picture:
                figures.append(_figure(drawing.path, drawing.caption, width=picture.width))
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _short_names(names: Sequence[str]) -> list[str]:
    """The names without the folders before them, unless two would become equal."""
    short = [PurePath(name).name for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _anchor(section: _Section) -> str:
    return section.heading.lower().replace(" ", "-")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
