"""Draws the pictures of one or several models: each model's own, or all models side by side."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flsl_jax.config import nearest_key
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.pictures.curves import compare_curves, save_curves
from flsl_jax.pictures.images import ShownImage, file_stem
from flsl_jax.pictures.kinds import KINDS, PictureSettings, Sheets, check_kind
from flsl_jax.pictures.panels import Sheet
from flsl_jax.pictures.runs import Run
from flsl_jax.pictures.sheet import save_sheet

log = logging.getLogger(__name__)

CURVES = "curves"
NAMES = (*KINDS, CURVES)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to draw: its name in columns and files, its features, and its run; None for a model without a run."""

    name: str
    encoder: Encoder
    run: Run | None = None


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A PNG, its kind of picture, and a caption that says what it shows of which image and model.

    `sheet`: what is on it, to be laid out anew; None for curves.
    """

    path: Path
    kind: str
    caption: str
    sheet: Sheet | None = None


def choose_pictures(
    names: Sequence[str], subjects: Sequence[Subject], images: Sequence[ShownImage], settings: PictureSettings
) -> list[str]:
    """The pictures to draw: the named ones or, if there are no names, the usual ones that are possible for every model; the log
    names those that are not.

    Raises:
        UserError: an unknown name, with the nearest one; or a picture that is not possible for a model or the images.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(f"there is no picture {name!r}; {nearest_key(name, NAMES).replace('keys', 'pictures')}")
        _check(name, subjects, images, settings)
    if names:
        return list(dict.fromkeys(names))
    chosen = []
    for name in [name for name in NAMES if name == CURVES or not KINDS[name].on_request]:
        try:
            _check(name, subjects, images, settings)
        except UserError as error:
            log.info("left out %s", error)
            continue
        chosen.append(name)
    return chosen


def draw(
    names: Sequence[str],
    subjects: Sequence[Subject],
    images: Sequence[ShownImage],
    *,
    settings: PictureSettings,
    output: Path,
    compare: bool,
) -> list[Drawing]:
    """Writes PNGs: `OUTPUT/NAME.png`, or `OUTPUT/MODEL/NAME.png` for several models.

    Args:
        names: of pictures, from `choose_pictures`.
        subjects: the models; all have different names.
        images: what to draw.
        settings: of the pictures.
        output: a folder; it is made if it does not exist.
        compare: whether several models are drawn as the columns of one sheet.
    """
    written: list[Drawing] = []
    with tqdm(total=len(names) * len(subjects), unit="picture", disable=None) as progress:
        for name in names:
            progress.set_description(name)
            if name == CURVES:
                runs = [subject for subject in subjects if _has_curves(subject)]
                written += _draw_curves(runs, output, compare=compare)
                progress.update(len(subjects))
                continue
            ordered = sorted(subjects, key=_ratio) if KINDS[name].by_ratio else subjects
            sheets: dict[str, Sheets] = {}
            for subject in ordered:
                sheets[_column(name, subject, ordered)] = KINDS[name].sheets(subject.encoder, images, settings)
                progress.update()
            written += _save(name, sheets, output=output, compare=compare or KINDS[name].by_ratio)
    return written


def _save(name: str, sheets: Mapping[str, Sheets], *, output: Path, compare: bool) -> list[Drawing]:
    kind, written = KINDS[name], []
    groups = [sheets] if compare else [{model: sheet} for model, sheet in sheets.items()]
    for group in groups:
        folder = output if len(groups) == 1 else output / file_stem(next(iter(group)))
        folder.mkdir(parents=True, exist_ok=True)
        for stem in next(iter(group.values())):
            lines = {model: sheet[stem] for model, sheet in group.items()}
            path, model = folder / f"{stem}.png", "" if len(group) > 1 else f" ({next(iter(group))})"
            sheet = Sheet(lines, title=f"{kind.shows}{model}", scale=kind.scale)
            save_sheet(path, sheet)
            image = stem.removesuffix(name).rstrip("_")
            caption = f"{image}: {sheet.title}" if image else sheet.title
            written.append(Drawing(path, name, caption, sheet=sheet))
    return written


def _draw_curves(subjects: Sequence[Subject], output: Path, *, compare: bool) -> list[Drawing]:
    """The training curves of runs: one figure of all of them, or one figure each."""
    if compare and len(subjects) > 1:
        output.mkdir(parents=True, exist_ok=True)
        compare_curves(metrics_by_name(subjects), output / "curves.png")
        return [Drawing(output / "curves.png", CURVES, "training curves")]
    written = []
    for subject in subjects:
        run = subject.run
        assert run is not None
        folder = output if len(subjects) == 1 else output / file_stem(subject.name)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "curves.png"
        save_curves(run.metrics, path, log_centroids=run.log_centroids, alarms=run.alarms)
        written.append(Drawing(path, CURVES, f"training curves ({subject.name})"))
    return written


def metrics_by_name(subjects: Sequence[Subject]) -> dict[str, Sequence[dict[str, Any]]]:
    """The metrics of every run that has any, by the model's name."""
    return {
        subject.name: subject.run.metrics for subject in subjects if subject.run is not None and subject.run.metrics
    }


def _check(name: str, subjects: Sequence[Subject], images: Sequence[ShownImage], settings: PictureSettings) -> None:
    if name == CURVES:
        if not any(map(_has_curves, subjects)):
            raise UserError(f"--pictures={CURVES}: no --model is a run with metrics; name a run's workdir")
        return
    for subject in subjects:
        if KINDS[name].by_ratio and subject.run is None:
            raise UserError(
                f"--pictures={name}: {subject.name} is not a run, so its υ/η is not known; name workdirs of runs"
            )
    check_kind(name, [subject.encoder for subject in subjects], images, settings)


def _has_curves(subject: Subject) -> bool:
    return subject.run is not None and bool(subject.run.metrics)


def _ratio(subject: Subject) -> float:
    assert subject.run is not None
    return subject.run.intra_to_inter


def _column(name: str, subject: Subject, subjects: Sequence[Subject]) -> str:
    """The title of a model's column."""
    if not KINDS[name].by_ratio:
        return subject.name
    title = f"υ/η = {_ratio(subject):g}"
    return title if [_ratio(other) for other in subjects].count(_ratio(subject)) == 1 else f"{title}\n{subject.name}"
