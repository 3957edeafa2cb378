"""Everything that can be seen of models, in one folder: opens them and the images, draws, and writes the report."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path, PurePath

from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import OpenedModel, open_model
from flsl_jax.evaluation.results import check_writable
from flsl_jax.pictures.gallery import Subject, choose_pictures, draw
from flsl_jax.pictures.images import queries, read_images
from flsl_jax.pictures.kinds import PictureSettings
from flsl_jax.pictures.report import write_report
from flsl_jax.training.history import read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
    """What to draw. `models`: as `open_model` takes them. `images`: a file, a folder or "scenes", the first `limit` of them.

    `size`: their shorter side, 0: the largest at which a model was trained. `pictures`: their names, empty: the usual ones.
    `search`: a file or folder with up to `search_limit` images for the neighbours, empty: the images themselves.
    """

    models: Sequence[str]
    images: str
    output: Path
    pictures: Sequence[str] = ()
    settings: PictureSettings = dataclasses.field(default_factory=PictureSettings)
    size: int = 0
    limit: int = 8
    search: str = ""
    search_limit: int = 200
    patch_size: int = 0
    num_heads: int = 0
    compare: bool = False
    report: bool = False


def make_album(album: Album) -> list[Path]:
    """Draws it; returns the paths of what was written, the report's last.

    Raises:
        UserError: a model, an image, a picture or a query that is not there or does not fit.
    """
    models = [open_model(source, patch_size=album.patch_size, num_heads=album.num_heads) for source in album.models]
    subjects = [_subject(model, name) for model, name in zip(models, _names(models))]
    multiple = math.lcm(*(subject.encoder.patch_size for subject in subjects))
    size = album.size or max(subject.encoder.image_size for subject in subjects)
    images = read_images(album.images, limit=album.limit, size=size, multiple=multiple)
    for image in images:
        queries(image, album.settings.places)
    settings = album.settings
    if album.search:
        search = read_images(album.search, limit=album.search_limit, size=size, multiple=multiple, flag="--search")
        settings = dataclasses.replace(settings, search=search)
    names = choose_pictures(album.pictures, subjects, images, settings)
    check_writable(album.output)
    drawings = draw(names, subjects, images, settings=settings, output=album.output, compare=album.compare)
    written = [drawing.path for drawing in drawings]
    if album.report:
        written.append(album.output / "report.html")
        write_report(written[-1], subjects, drawings)
    return written


def _subject(model: OpenedModel, name: str) -> Subject:
    run = None
    if model.config is not None and model.workdir is not None and model.step is not None:  # raw pixels have no step
        run = read_run(model.config, workdir=model.workdir, step=model.step, results=model.results)
    return Subject(name=name, encoder=model.encoder, run=run)


def _names(models: Sequence[OpenedModel]) -> list[str]:
    """The models' names without the folders that lead to them, where that tells them apart."""
    full = [model.encoder.name for model in models]
    if twice := {name for name in full if full.count(name) > 1}:
        raise UserError(f"--model names {', '.join(sorted(twice))} more than once; name every model once")
    short = [PurePath(name).name for name in full]
    return short if len(set(short)) == len(short) else full
