"""The maps of a study: one sheet of all variants, and how bright the maps are, which is what the paper's Fig. 5 shows."""

import json
from pathlib import Path

import numpy as np

from flsl_jax.album import Album, make_album
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.pictures.images import SCENES, read_images
from flsl_jax.pictures.kinds import encode
from flsl_jax.pictures.maps import aggregated_similarity
from flsl_jax.studies.grid import Cell, Plan
from flsl_jax.studies.progress import finished_step, write_json
from flsl_jax.studies.ranks import RankAgreement, rank_agreement
from flsl_jax.studies.scores import Spread

# Images on the sheet, and images over which brightness is a mean.
_SHOWN, _MEASURED = 4, 32


def sheet_path(plan: Plan) -> Path:
    """The PNG that `draw_maps` writes."""
    return plan.workdir / "pictures" / f"{plan.study.picture}.png"


def draw_maps(plan: Plan, *, images: str) -> None:
    """Draws the study's picture of every variant whose first seed is finished, as columns of one sheet.

    With columns by υ/η, the brightness of the maps of all finished runs is measured too.

    Args:
        plan: of the study.
        images: a file, a folder or "scenes"; empty: the scenes if the base is trained on them, else nothing is drawn.

    Raises:
        UserError: the images cannot be read.
    """
    data = plan.base.data
    images = images or (f"{SCENES}:{data.scene_kind}" if data.name == "scenes" else "")
    finished = [cell for cell in plan.cells if finished_step(cell)]
    first = [str(cell.folder) for cell in finished if cell.seed == plan.seeds[0]]
    path = sheet_path(plan)
    if images and first:
        make_album(
            Album(
                models=first,
                images=images,
                output=path.parent,
                pictures=[plan.study.picture],
                limit=_SHOWN,
                compare=True,
                narrow=True,
            )
        )
    if images and finished and plan.study.picture == "ratio":
        write_json(_brightness_path(plan), {cell.name: _brightness(cell, images) for cell in finished})


def brightness(plan: Plan) -> dict[str, Spread]:
    """The mean of the maps of a variant over its seeds, by the variant's name; empty before `draw_maps`."""
    path = _brightness_path(plan)
    values = json.loads(path.read_text()) if path.exists() else {}
    found: dict[str, dict[int, float]] = {}
    for cell in plan.cells:
        if cell.name in values:
            found.setdefault(cell.variant.name, {})[cell.seed] = values[cell.name]
    return {name: Spread(by_seed) for name, by_seed in found.items()}


def brightness_order(plan: Plan) -> RankAgreement | None:
    """The order of the variants by υ/η against that by brightness; in the paper the maps grow darker, so that ρ is negative."""
    measured = brightness(plan)
    cells = {cell.variant.name: cell for cell in plan.cells}
    names = [name for name in measured if cells[name].config.objective.inter_weight]
    objectives = [cells[name].config.objective for name in names]
    ratios = [objective.intra_weight.end / objective.inter_weight for objective in objectives]
    return rank_agreement(ratios, [measured[name].mean for name in names])


def _brightness_path(plan: Plan) -> Path:
    return plan.workdir / "pictures" / "brightness.json"


def _brightness(cell: Cell, images: str) -> float:
    encoder = open_model(str(cell.folder)).encoder
    shown = read_images(images, limit=_MEASURED, size=encoder.image_size, multiple=encoder.patch_size)
    return float(np.mean([aggregated_similarity(encode(encoder, image)).mean() for image in shown]))
