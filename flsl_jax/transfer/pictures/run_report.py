"""`report.html` of a fine-tuning run: what was trained, its metrics beside the paper's, curves, pictures and mistakes."""

import dataclasses
import datetime
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.evaluation.miou import mask_scores
from flsl_jax.pictures.curves import save_panels
from flsl_jax.pictures.page import Section, escape, figure, table, write_page
from flsl_jax.transfer.config import TransferConfig
from flsl_jax.transfer.data.objects import ObjectImages
from flsl_jax.transfer.judging.measurement import Measurement
from flsl_jax.transfer.judging.measuring import class_precision, predicted_classes
from flsl_jax.transfer.judging.metrics import BRIEF, WORDS, metric_rows
from flsl_jax.transfer.pictures.object_pictures import ObjectPictures
from flsl_jax.transfer.pictures.pixel_pictures import PixelPictures, confused_table
from flsl_jax.transfer.trained import MODEL_FILE, read_json
from flsl_jax.workdir import METRICS_FILE, read_metrics

log = logging.getLogger(__name__)

REPORT_FILE = "report.html"
# Images that are shown; mistakes of each kind; pairs of classes that are confused; classes that are listed at once.
_EXAMPLES, _MISTAKES, _PAIRS, _LISTED = 8, 4, 10, 30
_KINDS = {"faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN", "semantic_fpn": "Semantic FPN"}
_PYRAMIDS = {
    "patch": "the patch pyramid",
    "flat": "four maps at the patches' scale",
    "simple": "ViTDet's simple pyramid and heads",
}
_CURVES = {
    "losses": (
        "loss",
        "cross_entropy",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "loss_objectness",
        "loss_rpn_box_reg",
    ),
    "learning rate": ("lr",),
}


def try_report(
    workdir: Path,
    config: TransferConfig,
    *,
    train: ObjectImages | MaskedSource,
    val: ObjectImages | MaskedSource,
    measurement: Measurement,
    model: nn.Module,
) -> None:
    """Writes the page of a run that has ended; what goes wrong with it is a warning, so that no run fails for it.

    Args:
        workdir: of the run; the page becomes its `report.html`.
        config: of the run.
        train: the images that were trained on.
        val: those that were measured on.
        measurement: the last one.
        model: as it was measured; a segmenter classifies the few images that are shown again.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            _write(workdir, config, train=train, val=val, measurement=measurement, model=model, folder=Path(folder))
        log.info("%s", workdir / REPORT_FILE)
    except Exception as error:  # data and libraries of all kinds take part
        log.warning("%s was not written: %s: %s", workdir / REPORT_FILE, type(error).__name__, error)


def _write(
    workdir: Path,
    config: TransferConfig,
    *,
    train: ObjectImages | MaskedSource,
    val: ObjectImages | MaskedSource,
    measurement: Measurement,
    model: nn.Module,
    folder: Path,
) -> None:
    lines = read_metrics(workdir / METRICS_FILE)
    pictures = _pictures(config, val=val, measurement=measurement, model=model, folder=folder)
    write_page(
        workdir / REPORT_FILE,
        title=workdir.resolve().name,
        subtitle=f"{_KINDS[config.network.kind]}, step {config.steps:,}, as of "
        f"{datetime.datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        sections=[
            Section("Results", _results(config, measurement, lines=lines, val=val)),
            Section("What was trained", _trained(workdir, config, train=train, val=val)),
            Section("Training", _curves(config, lines, folder=folder)),
            *pictures,
        ],
        flag="--workdir",
    )


def _results(
    config: TransferConfig,
    measurement: Measurement,
    *,
    lines: Sequence[dict[str, Any]],
    val: ObjectImages | MaskedSource,
) -> str:
    """All metrics with the paper's, the step of the best checkpoint, and the classes."""
    paper = bool(config.paper_numbers.metrics)
    brief, rest = [], []
    for row in metric_rows(config, measurement.metrics):
        values = (row.value, row.flsl, row.dino) if paper else (row.value,)
        first = row.name in BRIEF or row.name in config.paper_numbers.metrics
        (brief if first else rest).append((escape(row.words), *map(_percent, values)))
    head = ("", "this run", "FLSL", "DINO") if paper else ("", "this run")
    parts = [f"<p>On {escape(val.name)}, {len(val):,} images.</p>\n", table(brief, head=head, numbers=True)]
    if config.paper:
        about = f"FLSL and DINO: as the paper has them, {config.paper}." if paper else config.paper
        parts.append(f'<p class="soft">{escape(about)}</p>\n')
    measured = [line for line in lines if config.main_metric in line]
    best = max(measured, key=lambda line: line[config.main_metric], default={"step": config.steps})
    if best["step"] != config.steps:
        parts.append(
            f"<p>These are of the last step. The best {WORDS[config.main_metric]}, {best[config.main_metric]:.1%}, was "
            f"measured at step {best['step']:,}; <code>checkpoints/best.ckpt</code>, which <code>--predict</code> takes, is of "
            "that step.</p>\n"
        )
    if rest:
        more = table(rest, head=head, numbers=True)
        parts.append(f"<details><summary>By the size of objects, and recall</summary>{more}</details>\n")
    return "".join([*parts, _classes(measurement, val)])


def _classes(measurement: Measurement, val: ObjectImages | MaskedSource) -> str:
    """A table of the classes, from the worst on; folded where it is long."""
    columns: dict[str, Mapping[str, float]] = {}
    if isinstance(val, ObjectImages):
        found = list(measurement.detections or ())
        kinds: list[tuple[str, Literal["bbox", "segm"]]] = [("box AP", "bbox")]
        if found and all("segmentation" in item for item in found):
            kinds.append(("mask AP", "segm"))
        if found and len(val.class_names) > 1:
            columns = {name: class_precision(val, found, kind=kind) for name, kind in kinds}
    else:
        rows = mask_scores(measurement.confusion).rows(val.class_names)
        for name, key in (("IoU", "iou"), ("accuracy", "accuracy"), ("share of the pixels", "pixel_share")):
            columns[name] = {str(row["class"]): float(row[key]) for row in rows}
    if not columns:
        return ""
    first = next(iter(columns.values()))
    names = sorted(first, key=lambda name: first[name])
    cells = [(escape(name), *(_percent(column.get(name)) for column in columns.values())) for name in names]
    shown = table(cells, head=("class", *columns), numbers=True)
    if len(names) > _LISTED:
        return f"<details><summary>{len(names)} classes, the worst first</summary>{shown}</details>\n"
    return f"<h3>Classes, the worst first</h3>\n{shown}"


def _trained(
    workdir: Path, config: TransferConfig, *, train: ObjectImages | MaskedSource, val: ObjectImages | MaskedSource
) -> str:
    facts = _facts(config, model=read_json(workdir / MODEL_FILE), train=train)
    rows = [(escape(name), escape(value)) for name, value in facts]
    rows.append(("measured&nbsp;on", escape(f"{val.name}, {len(val):,} images, {len(val.class_names)} classes")))
    every = escape(json.dumps(dataclasses.asdict(config), indent=2))
    return f"{table(rows)}<details><summary>Every key of its config</summary><pre>{every}</pre></details>\n"


def _facts(
    config: TransferConfig, *, model: Mapping[str, Any], train: ObjectImages | MaskedSource
) -> list[tuple[str, str]]:
    network, augment, optimizer, arch = config.network, config.augment, config.optimizer, model["architecture"]
    attention = f", attention in windows of {network.window} tokens" if network.window else ""
    facts = [
        (
            "network",
            f"{_KINDS[network.kind]} with {_PYRAMIDS[network.pyramid]}, {network.channels} channels{attention}",
        ),
        (
            "backbone",
            f"ViT, {arch['depth']} blocks, width {arch['width']}, patches of {arch['patch_size']} px; "
            + "; ".join(model.get("backbone", "").splitlines()),
        ),
        ("trained on", f"{train.name}, {len(train):,} images"),
        ("updates", f"{config.steps:,}, each of {config.batch_size} images, seed {config.seed}, {config.precision}"),
        ("images", f"short side {_range(augment.sizes)} px, long side {augment.max_size} px at most{_changes(config)}"),
        (
            "optimiser",
            f"{'AdamW' if optimizer.name == 'adamw' else 'SGD'}, lr {optimizer.lr:g}, weight decay "
            f"{optimizer.weight_decay:g}, {optimizer.warmup_steps:,} steps of warm-up, then "
            + (
                "in a straight line to 0"
                if optimizer.schedule == "poly"
                else f"a tenth after {', '.join(f'{share:.0%}' for share in optimizer.drops) or 'none'} of the steps"
            ),
        ),
    ]
    return [(name, value.removesuffix("; ")) for name, value in facts]


def _range(sizes: Sequence[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else f"{sizes[0]}"


def _changes(config: TransferConfig) -> str:
    augment = config.augment
    words = [f"mirrored with probability {augment.flip:g}"] if augment.flip else []
    if config.is_segmentation:
        words += [f"scaled by {augment.ratio[0]:g} to {augment.ratio[1]:g}"] if augment.ratio != (1.0, 1.0) else []
        words += [f"squares of {augment.crop} px"] if augment.crop else []
        words += [f"colours changed with probability {augment.photometric:g}"] if augment.photometric else []
    elif augment.jitter != (1.0, 1.0):
        words.append(f"scaled by {augment.jitter[0]:g} to {augment.jitter[1]:g}")
    return f"; {', '.join(words)}" if words else ""


def _curves(config: TransferConfig, lines: Sequence[dict[str, Any]], *, folder: Path) -> str:
    main = [name for name in BRIEF if sum(name in line for line in lines) > 1][:7]
    panels = dict(_CURVES) | ({"metrics": tuple(main)} if main else {})
    if config.is_segmentation:  # whose loss has a single term
        panels["losses"] = ("loss",)
    drawn, narrow = folder / "curves.svg", folder / "narrow.svg"
    for path, columns in ((drawn, 2), (narrow, 1)):
        save_panels(lines, path, panels=panels, columns=columns)
    return figure(drawn, f"Over the steps: {', '.join(panels)}.", wide=True, narrow=narrow)


def _pictures(
    config: TransferConfig,
    *,
    val: ObjectImages | MaskedSource,
    measurement: Measurement,
    model: nn.Module,
    folder: Path,
) -> list[Section]:
    """Examples and mistakes; none of them, and a warning, where they cannot be drawn."""
    try:
        if isinstance(val, ObjectImages):
            objects = ObjectPictures(val, measurement.detections or (), folder=folder)
            return [
                Section("Examples", objects.examples(most=_EXAMPLES)),
                Section("Mistakes", objects.mistakes(most=_MISTAKES)),
            ]
        assert measurement.pixels is not None
        device = next(model.parameters()).device
        model.eval()
        pixels = PixelPictures(
            val,
            lambda image: predicted_classes(model, image, device=device, augment=config.augment),
            scores=measurement.pixels["images"],
            folder=folder,
        )
        confused = confused_table(measurement.confusion, val.class_names, most=_PAIRS)
        return [
            Section("Examples", pixels.examples(most=_EXAMPLES)),
            Section("Mistakes", confused + pixels.worst(most=_MISTAKES)),
        ]
    except Exception as error:  # data and libraries of all kinds take part
        log.warning("the report has no pictures: %s: %s", type(error).__name__, error)
        return []


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
