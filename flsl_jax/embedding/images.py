"""The images to embed, from one word: a folder, shards, a file, a list of files, or the embedded scenes."""

import os
from pathlib import Path

from flsl_jax.config import SourceConfig
from flsl_jax.data.listing import IMAGE_SUFFIXES, read_file
from flsl_jax.data.records import Record, Source, checked_index, digest_of
from flsl_jax.data.shards import MANIFEST_NAME
from flsl_jax.data.sources import FirstRecords, open_source
from flsl_jax.errors import UserError, reason

_SCENES = 64


class ListedFiles:
    """Image files by their paths; a name is the path as it is given, below `folder` if it is relative."""

    class_names: tuple[str, ...] = ()

    def __init__(self, paths: list[str], *, folder: Path, name: str) -> None:
        self.name, self._paths, self._folder = name, paths, folder

    @property
    def digest(self) -> str:
        return digest_of("listed", *map(os.fsencode, self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """An image's path as it is given."""
        return self._paths[index]

    def __getitem__(self, index: int) -> Record:
        path = self._paths[checked_index(index, len(self))]
        return Record(image=read_file(self._folder / path), name=path)


def open_images(spec: str, *, limit: int, scene_size: int) -> Source:
    """Opens images for reading, in a fixed order.

    Args:
        spec: a folder of images at any depth; a folder of shards of `flsl prepare`; an image file; a `.txt` file with a path in
            each line, relative ones from its own folder; "scenes" or "scenes:textures".
        limit: images at most; 0: all.
        scene_size: height and width of scenes in pixels.

    Raises:
        UserError: there is no such thing, or no image in it.
    """
    name, _, kind = spec.partition(":")
    if name == "scenes":
        if kind not in ("", "hues", "textures"):
            raise UserError(f"--images={spec}: there are scenes:hues and scenes:textures")
        values = {"count": limit or _SCENES, "scene_size": scene_size, "scene_kind": kind or "hues", "split": "test"}
        return open_source(SourceConfig(name="scenes", **values))
    path = Path(spec)
    if not path.exists():
        raise UserError(f'--images={spec} does not exist; name a folder, an image, a .txt list of files, or "scenes"')
    if path.is_dir():
        packed = (path / MANIFEST_NAME).is_file()
        return open_source(SourceConfig(name="shards" if packed else "folder", root=spec, limit=limit))
    if path.suffix.lower() == ".txt":
        source: Source = ListedFiles(_lines(path), folder=path.absolute().parent, name=spec)
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        source = ListedFiles([path.name], folder=path.absolute().parent, name=spec)
    else:
        raise UserError(
            f"--images={spec} is no image by its name ({' '.join(IMAGE_SUFFIXES)}) and no .txt list of files; name a folder"
        )
    return FirstRecords(source, limit=limit) if limit else source


def _lines(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig", errors="surrogateescape").splitlines()]
    except OSError as error:
        raise UserError(f"--images={path} cannot be read ({reason(error)})") from error
    if not any(lines):
        raise UserError(f"--images={path} is empty; write the path of an image in each line")
    return [line for line in lines if line]
