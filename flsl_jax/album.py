"""Pictures of models in one folder: opens the models and the images, draws, and writes the report."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from flsl_jax.config import AS_THE_FILE_SAYS, ReadingConfig, SourceConfig
from flsl_jax.data.images.levels import Decoding
from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import OpenedModel, open_model, short_names
from flsl_jax.evaluation.results import check_writable
from flsl_jax.pictures.gallery import Subject, choose_pictures, draw
from flsl_jax.pictures.images import queries, read_images
from flsl_jax.pictures.kinds import PictureSettings
from flsl_jax.pictures.layout import NARROW
from flsl_jax.pictures.report import write_report
from flsl_jax.pictures.sheet import save_sheet
from flsl_jax.training.watching.history import read_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Album:
    """What to draw.

    `models`: as `open_model` takes them, with `patch_size` and `reading`. `images`: a file, a folder, "scenes" or
    "scenes:textures", of which the first `limit` images are drawn. `columns`: whose other keys say what is read of them.
    `output`: the folder of the pictures. `pictures`: their names; empty: the usual ones.
    `settings`: of the pictures. `size`: the images' shorter side in pixels; 0: the largest at which a model was trained.
    `search`: a file or folder of which the first `search_limit` images are searched for neighbours; empty: the drawn images.
    `compare`: whether models are the columns of one sheet. `report`: whether report.html is written too. `narrow`: whether each
    sheet is also written as NAME_narrow.png, laid out for phones.
    """

    models: Sequence[str]
    images: str
    output: Path
    columns: SourceConfig = dataclasses.field(default_factory=SourceConfig)
    pictures: Sequence[str] = ()
    settings: PictureSettings = dataclasses.field(default_factory=PictureSettings)
    size: int = 0
    limit: int = 8
    search: str = ""
    search_limit: int = 200
    patch_size: int = 0
    reading: ReadingConfig = AS_THE_FILE_SAYS
    compare: bool = False
    report: bool = False
    narrow: bool = False


def make_album(album: Album) -> list[Path]:
    """Draws everything; returns the paths of the files, the report's last.

    Raises:
        UserError: a model, an image or a picture does not exist, or they do not fit together.
    """
    models = [open_model(source, patch_size=album.patch_size, reading=album.reading) for source in album.models]
    subjects = [_subject(model, name) for model, name in zip(models, short_names(models))]
    multiple = math.lcm(*(subject.encoder.patch_size for subject in subjects))
    size = album.size or max(subject.encoder.image_size for subject in subjects)
    decoding = _one_decoding(subjects)
    how = {"size": size, "multiple": multiple, "decoding": decoding, "config": album.columns}
    images = read_images(album.images, limit=album.limit, **how)
    for image in images:
        queries(image, album.settings.places)
    settings = album.settings
    if album.search:
        search = read_images(album.search, limit=album.search_limit, flag="--search", **how)
        settings = dataclasses.replace(settings, search=search)
    names = choose_pictures(album.pictures, subjects, images, settings)
    check_writable(album.output)
    drawings = draw(names, subjects, images, settings=settings, output=album.output, compare=album.compare)
    written = [drawing.path for drawing in drawings]
    for drawing in drawings if album.narrow else ():
        if drawing.sheet is not None:
            written.append(narrow_path(drawing.path))
            save_sheet(written[-1], drawing.sheet, style=NARROW)
    if album.report:
        written.append(album.output / "report.html")
        write_report(written[-1], subjects, drawings)
    return written


def _one_decoding(subjects: Sequence[Subject]) -> Decoding:
    """How the images of one sheet are read.

    Raises:
        UserError: the networks see other bands, or other levels of the same files.
    """
    decodings = {subject.encoder.decoding: subject.name for subject in subjects}
    if len(decodings) > 1:
        named = " and ".join(f"{name}: {decoding.describe()}" for decoding, name in list(decodings.items())[:2])
        raise UserError(f"--model names networks that read images in different ways ({named}); draw them one at a time")
    return next(iter(decodings))


def narrow_path(sheet: Path) -> Path:
    """Where the layout for phones of a sheet is."""
    return sheet.with_name(f"{sheet.stem}_narrow{sheet.suffix}")


def _subject(model: OpenedModel, name: str) -> Subject:
    run = None
    if model.config is not None and model.workdir is not None and model.step is not None:  # raw pixels have no step
        run = read_run(model.config, workdir=model.workdir, step=model.step, results=model.results)
    return Subject(name=name, encoder=model.encoder, run=run)
