"""Videos with a mask of object ids for every frame: the DAVIS-2017 layout, and films of the embedded scenes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flsl_jax.config import VideoConfig
from flsl_jax.data.decode import DecodeError, decode_image
from flsl_jax.data.image_files import open_image
from flsl_jax.data.listing import read_file
from flsl_jax.data.scenes import Scenes
from flsl_jax.errors import UserError, reason

_VOID = 255
# Pillow's modes of a PNG whose pixels are ids.
_ID_MODES = ("P", "L")


@runtime_checkable
class Video(Protocol):
    """Frames of one size, `height` × `width` pixels.

    `name` is the video's, such as "blackswan"; `frames` are the names of the frames, from "00000" on.
    """

    name: str
    frames: tuple[str, ...]
    height: int
    width: int

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Frame `index`, decoded."""
        ...

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Object ids of frame `index`; 0 for background and for pixels that the annotators left undecided (255)."""
        ...


class FileVideo:
    """A folder of frames and a folder with a PNG of object ids for each frame, as in DAVIS.

    The presence and the size of all files are checked at once; pixels are read when they are asked for.

    Args:
        name: the name of the video.
        images: its folder of numbered .jpg (or .png) frames.
        masks: its folder of .png masks with the same numbers.

    Raises:
        UserError: a frame or a mask is missing, its size is not that of the first frame, or a mask does not hold ids.
    """

    def __init__(self, name: str, *, images: Path, masks: Path) -> None:
        self.name = name
        self._images = _numbered(images, suffixes=(".jpg", ".jpeg", ".png"), what="frames")
        self.frames = tuple(self._images)
        self.width, self.height = open_image(self._images[self.frames[0]]).size
        for path in self._images.values():
            _require_size(path, width=self.width, height=self.height, what="frame", like=images)
        self._masks = masks
        for frame in self.frames:
            check_mask(masks / f"{frame}.png", width=self.width, height=self.height)
        unshown = sorted({path.stem for path in masks.glob("*.png")} - set(self.frames))
        if unshown:
            raise UserError(f"video {name}: mask {masks / unshown[0]}.png has no frame in {images}; add it")

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """See `Video`."""
        path = self._images[self.frames[index]]
        try:
            return decode_image(read_file(path), name=str(path))
        except (OSError, DecodeError) as error:
            raise UserError(f"frame {path} cannot be read ({error}); repair it") from error

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """See `Video`."""
        return read_mask(self._masks / f"{self.frames[index]}.png")

    def ids(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The mask as its file has it, with 255 for what the annotators left undecided."""
        return read_ids(self._masks / f"{self.frames[index]}.png")


class SceneVideo:
    """A film of one embedded scene; its objects have the numbers that `Scenes` gives them."""

    def __init__(self, scenes: Scenes, index: int, *, frames: int) -> None:
        film = scenes.sequence(index, frames=frames)
        self.name = scenes[index].name.replace("/", "-")
        self.frames = tuple(f"{number:05d}" for number in range(frames))
        self.height, self.width = film.instances.shape[1:]
        self._film = film

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """See `Video`."""
        return self._film.images[index]

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """See `Video`."""
        return self._film.instances[index]


def open_videos(config: VideoConfig) -> list[Video]:
    """Opens the videos that a config describes; each has at least one object in its first frame.

    Raises:
        UserError: a file is missing or has the wrong content, a video is too short to be judged or has no object, or the
            config lacks a value.
    """
    videos = _scene_videos(config) if config.name == "scenes" else _davis_videos(config)
    for video in videos:
        if len(video.frames) < 3:
            raise UserError(
                f"video {video.name} has {len(video.frames)} frames; the first and the last one are not judged, so it "
                "needs at least 3"
            )
        if not video.mask(0).any():
            void = isinstance(video, FileVideo) and bool((video.ids(0) == _VOID).any())
            raise UserError(
                f"video {video.name}: the mask of its first frame has no object, so there is nothing to follow"
                + (
                    "; it has 0 and 255 alone, and 255 is undecided in DAVIS-2017: write 1 for the object"
                    if void
                    else ""
                )
            )
    return videos


def _scene_videos(config: VideoConfig) -> list[Video]:
    count = min(config.count, config.limit) if config.limit > 0 else config.count
    scenes = Scenes(count=count, size=config.scene_size, split=config.split, kind=config.scene_kind)
    return [SceneVideo(scenes, index, frames=config.frames) for index in range(count)]


def _davis_videos(config: VideoConfig) -> list[Video]:
    if not config.root:
        raise UserError(
            "root of the video task is empty; name the folder that holds DAVIS-2017 (ImageSets, JPEGImages, Annotations), or "
            "use the embedded films (name = scenes)"
        )
    root, listing = Path(config.root), Path(config.root, "ImageSets", "2017", f"{config.split}.txt")
    try:
        names = listing.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{listing} cannot be read ({reason(error)}); expected the DAVIS-2017 layout, in which this file lists the "
            f'videos of split "{config.split}"'
        ) from error
    if not names:
        raise UserError(f"{listing} names no video; list one name per line")
    folders = ("JPEGImages", config.resolution), ("Annotations", config.resolution)
    names = names[: config.limit] if config.limit > 0 else names
    return [
        FileVideo(name, images=root.joinpath(*folders[0], name), masks=root.joinpath(*folders[1], name))
        for name in names
    ]


def read_mask(path: Path) -> UInt8[np.ndarray, "H W"]:
    """The ids of an indexed or grey PNG; 255 becomes 0, as in the evaluation of DAVIS.

    Raises:
        UserError: the file cannot be read.
    """
    ids = read_ids(path)
    return np.where(ids == _VOID, np.uint8(0), ids)


def read_ids(path: Path) -> UInt8[np.ndarray, "H W"]:
    """The ids of an indexed or grey PNG, unchanged.

    Raises:
        UserError: the file cannot be read.
    """
    return np.asarray(open_image(path, pixels=True), np.uint8)


def check_mask(path: Path, *, width: int, height: int) -> None:
    """Checks a mask by its header alone.

    Raises:
        UserError: the mask is missing or unreadable, does not hold ids, or has another size.
    """
    if not path.is_file():
        raise UserError(f"mask {path} is missing; every frame needs one")
    mask = open_image(path)
    if mask.mode not in _ID_MODES:
        raise UserError(f"mask {path} has pixels of mode {mask.mode}; expected a PNG with one channel of object ids")
    if mask.size != (width, height):
        raise UserError(
            f"mask {path} is {mask.size[0]}×{mask.size[1]}, its frame {width}×{height}; give the mask the size of its frame"
        )


def write_masks(folder: Path, masks: UInt8[np.ndarray, "T H W"], *, frames: Sequence[str]) -> None:
    """Writes one indexed PNG per frame, `folder`/FRAME.png, with the palette of DAVIS (which is that of PASCAL VOC).

    Files with these names are replaced. None of them appears before all are written.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{frame}.png" for frame in frames]
    for name, ids in zip(names, masks, strict=True):
        picture = Image.fromarray(ids)
        picture.putpalette(davis_palette().tobytes())
        picture.save(partial / name)
    for name in names:
        os.replace(partial / name, folder / name)
    partial.rmdir()


def davis_palette() -> UInt8[np.ndarray, "256 3"]:
    """The colour of each id: bits 0, 3 and 6 of the id are the highest bits of red, 1, 4 and 7 of green, 2 and 5 of blue."""
    ids, channels = np.arange(256)[:, None], np.arange(3)
    bits = [(ids >> (3 * level + channels) & 1) << (7 - level) for level in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)


def _numbered(folder: Path, *, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """Files by their name without suffix, sorted; the names are consecutive numbers."""
    found = {path.stem: path for path in folder.glob("*") if path.suffix.lower() in suffixes}
    if not found:
        raise UserError(f"{folder} holds no {what} ({' '.join(suffixes)}); complete the data set")
    numbers = sorted(stem for stem in found if stem.isdecimal())
    if len(numbers) != len(found):
        odd = min(found.keys() - set(numbers))
        raise UserError(f"frame {found[odd]}: expected files named by their number, such as 00000{suffixes[0]}")
    for number in range(int(numbers[0]), int(numbers[-1]) + 1):
        name = f"{number:0{len(numbers[0])}d}"
        if name not in found:
            raise UserError(f"frame {folder / name}{found[numbers[0]].suffix} is missing; complete the video")
    return {name: found[name] for name in numbers}


def _require_size(path: Path, *, width: int, height: int, what: str, like: Path) -> None:
    size = open_image(path).size
    if size != (width, height):
        raise UserError(
            f"{what} {path} is {size[0]}×{size[1]}, the first in {like} {width}×{height}; give all of them one size"
        )
