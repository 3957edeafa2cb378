"""`report.html`: one page about one or several models, to read on a screen, a phone or paper, without a network."""

import datetime
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from flsl_jax.config import Config, describe_source, to_dict
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.pictures.curves import compare_curves, save_curves
from flsl_jax.pictures.gallery import Drawing, Subject, metrics_by_name
from flsl_jax.pictures.layout import NARROW
from flsl_jax.pictures.page import Section, escape, figure, number, table, write_page
from flsl_jax.pictures.runs import Run
from flsl_jax.pictures.sheet import save_sheet


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
        Section("What was trained", "".join(map(_trained, subjects))),
        Section(
            "Training", _compared(subjects) + "".join(map(_training, [subject for subject in subjects if subject.run]))
        ),
        Section("Evaluation", _evaluation(subjects)),
        Section("What it sees", _pictures(drawings)),
    ]
    names = " · ".join(subject.name for subject in subjects)
    subtitle = f"frozen features, as of {datetime.datetime.now().astimezone():%-d %B %Y, %H:%M %Z}"
    write_page(path, title=names, subtitle=subtitle, sections=sections, flag="--output")


def _trained(subject: Subject) -> str:
    """What one model is and how it was trained."""
    run = subject.run
    heading = f"<h3>{escape(subject.name)}</h3>"
    if run is None:
        patches = f"{subject.encoder.image_size} px, patches of {subject.encoder.patch_size} px"
        if isinstance(subject.encoder, PixelEncoder):
            return f"{heading}<p>{patches}. The levels of each patch as its feature: a baseline without training.</p>"
        return f"{heading}<p>{patches}. Not a run of this program: nothing is known about its training.</p>"
    config = escape(json.dumps(to_dict(run.config), indent=2))
    details = f"<details><summary>Every key of its config</summary><pre>{config}</pre></details>\n"
    if not run.step:
        return f"{heading}<p>A network before its first update: {escape(_start(run.config))}.</p>{details}"
    rows = [(escape(name), escape(value)) for name, value in _facts(run)]
    return f"{heading}{table(rows)}{details}"


def _start(config: Config) -> str:
    return f"the backbone of {config.init_from}" if config.init_from else f"random values, seed {config.seed}"


def _facts(run: Run) -> list[tuple[str, str]]:
    config = run.config
    model, objective = config.model, config.objective
    parts = ", ".join(f"{name} {count:,}" for name, count in run.parameters.items())
    updates = f"{run.step:,}, each of {config.batch_size} images"
    facts = [
        (
            "network",
            f"ViT, {model.depth} blocks, width {model.width}, {model.num_heads} heads, "
            f"patches of {model.patch_size} px",
        ),
        ("parameters", f"{sum(run.parameters.values()):,} ({parts})"),
        ("views", f"{config.views.recipe} recipe, {config.views.size} px"),
        ("started from", _start(config)),
        ("data", describe_source(config.data)),
        ("updates", f"{updates}; config: {config.epochs} epochs"),
        ("objective", f"{_terms(config)}; {config.head.centroids} centroids; targets: {objective.targets}"),
        (
            "optimiser",
            f"AdamW, lr {config.optimizer.lr:g} per 256 images, weight decay {_ends(config.optimizer.weight_decay)}, "
            f"teacher momentum {_ends(config.teacher.momentum)}, seed {config.seed}",
        ),
    ]
    if run.training_seconds is not None:
        facts.append(("time", f"{_duration(run.training_seconds)} of steps, without evaluations and checkpoints"))
    return facts


def _terms(config: Config) -> str:
    """The objective's name and the weights of its terms, where it has several."""
    objective = config.objective
    if objective.method == "dino":
        return "DINO's"
    return f"FLSL's, υ {_ends(objective.intra_weight)}, η {objective.inter_weight:g}, γ {objective.volume_weight:g}"


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
        drawn, narrow = Path(folder) / "curves.svg", Path(folder) / "narrow.svg"
        compare_curves(runs, drawn)
        compare_curves(runs, narrow, columns=1)
        return figure(drawn, f"Curves of {', '.join(runs)}.", wide=True, narrow=narrow)


def _training(subject: Subject) -> str:
    """The curves and alarms of one run."""
    run = subject.run
    assert run is not None
    if not run.metrics:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        drawn, narrow = Path(folder) / "curves.svg", Path(folder) / "narrow.svg"
        for path, columns in ((drawn, 2), (narrow, 1)):
            save_curves(run.metrics, path, log_centroids=run.log_centroids, alarms=run.alarms, columns=columns)
        marked = "; a dotted line marks where the monitor first raised an alarm" if run.alarms else ""
        curves = figure(drawn, f"Curves of {subject.name}{marked}.", wide=True, narrow=narrow)
    if not run.alarms:
        return f"<h3>{escape(subject.name)}</h3>{curves}<p>{escape(run.silence)}</p>\n"
    rows = [(f"{alarm.step:,}", f"{escape(alarm.name)}: {escape(alarm.message)}") for alarm in run.alarms]
    caption = "Alarms of the monitor: where each was first raised, and where it was repeated."
    alarms = table(rows, head=("step", "alarm"), caption=caption)
    return f'<h3>{escape(subject.name)}</h3>{curves}<div class="alarm">{alarms}</div>\n'


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
    rows = [(escape(name), *(number(result["metrics"].get(name)) for result in results)) for name in metrics]
    parts = [f"<h3>{escape(first['task'])}</h3>", f"<p>{escape(first['judges'])}</p>" if first.get("judges") else ""]
    names = _short_names([result["model"]["name"] for result in results])
    parts.append(table(rows, head=("", *map(escape, names)), numbers=True))
    judged = ", ".join(f"{name} {number(value)}" for name, value in first.get("judged", {}).items())
    parts += [f'<p class="soft">judged: {escape(judged)}</p>'] * bool(judged)
    warnings = dict.fromkeys(line for result in results for line in result.get("warnings", ()))
    parts += [f'<div class="alarm"><p>{escape(line)}</p></div>' for line in warnings]
    if first.get("reference"):
        reference = f"To compare, by the same protocol on the data named here: {escape(first['reference'])}"
        parts.append(f'<p class="soft">{reference}</p>')
    for name, result in zip(names, results):
        if result.get("rows"):
            detail = _rows_table(result["rows"])
            parts.append(f"<details><summary>In detail: {escape(name)}</summary>{detail}</details>")
    settings = json.dumps(first.get("settings", {}), indent=2)
    parts.append(
        f"<details><summary>Every parameter of the protocol</summary><pre>{escape(settings)}</pre></details>\n"
    )
    return "".join(parts)


def _rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [[number(value) for value in row.values()] for row in rows]
    return table(cells, head=[escape(name) for name in rows[0]], numbers=True)


def _pictures(drawings: Sequence[Drawing]) -> str:
    """All pictures but the curves, which have a section of their own."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        narrow = Path(folder) / "narrow.png"
        for drawing in drawings:
            if drawing.sheet is not None:
                save_sheet(narrow, drawing.sheet, style=NARROW)
                with Image.open(drawing.path) as picture:
                    figures.append(figure(drawing.path, drawing.caption, width=picture.width, narrow=narrow))
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _short_names(names: Sequence[str]) -> list[str]:
    """The names without the folders before them, unless two would become equal."""
    short = [PurePath(name).name for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)
