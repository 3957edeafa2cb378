"""Videos with masks of object ids for the first frame and others: the DAVIS-2017 layout, and films of the embedded scenes."""

import dataclasses
import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flsl_jax.config import VideoConfig
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, decode_image, pixels_of
from flsl_jax.data.images.image_files import open_image
from flsl_jax.data.images.listing import read_file
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError, reason

log = logging.getLogger(__name__)

_VOID = 255
_FRAMES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
# Pillow's modes of a PNG whose pixels are ids.
_ID_MODES = ("P", "L")


@runtime_checkable
class Video(Protocol):
    """Frames of one size, `height` × `width` pixels.

    `name` is the video's, such as "blackswan"; `frames` are the names of the frames, such as "00000". `annotated`: the numbers
    of the frames that have a mask, in order; the first frame is one.
    """

    name: str
    frames: tuple[str, ...]
    annotated: tuple[int, ...]
    height: int
    width: int

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """Frame `index`, decoded."""
        ...

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Object ids of frame `index`; 0 for background and for pixels that the annotators left undecided (255)."""
        ...


class FileVideo:
    """A folder of frames and a folder with PNGs of object ids for the first frame and any others, as in DAVIS.

    The presence and the size of all files are checked at once; pixels are read when they are asked for. `gap`: where the names
    of the frames are numbers, one that is left out; empty if none is.

    Args:
        name: the name of the video.
        images: its folder of frames, in any format of images, in the order of their names, in which numbers count as numbers.
        masks: its folder of .png masks, named as their frames.
        decoding: which channels are read of the frames.

    Raises:
        UserError: there is no frame, two have one name, the first one has no mask, a mask has no frame, a size is not that of
            the first frame, or a mask does not hold ids.
    """

    def __init__(self, name: str, *, images: Path, masks: Path, decoding: Decoding = RGB) -> None:
        self.name, self._decoding = name, decoding
        self._images = _ordered(images)
        self.frames, self.gap = tuple(self._images), _gap(list(self._images))
        self.width, self.height = open_image(self._images[self.frames[0]]).size
        for path in self._images.values():
            _require_size(path, width=self.width, height=self.height, what="frame", like=images)
        self._masks = {path.stem: path for path in masks.glob("*") if path.suffix.lower() == ".png" and _is_shown(path)}
        unshown = sorted(self._masks.keys() - self._images.keys())
        if unshown:
            raise UserError(f"video {name}: mask {self._masks[unshown[0]]} has no frame in {images}; add it")
        if self.frames[0] not in self._masks:
            raise UserError(
                f"mask {masks / self.frames[0]}.png is missing; the first frame needs one, which is followed"
            )
        for path in self._masks.values():
            check_mask(path, width=self.width, height=self.height)
        self.annotated = tuple(number for number, frame in enumerate(self.frames) if frame in self._masks)

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """See `Video`."""
        path = self._images[self.frames[index]]
        try:
            return decode_image(read_file(path), name=str(path), decoding=self._decoding)
        except (OSError, DecodeError) as error:
            raise UserError(f"frame {path} cannot be read ({error}); repair it") from error

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """See `Video`."""
        return read_mask(self._masks[self.frames[index]])

    def ids(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """The mask as its file has it, with 255 for what the annotators left undecided."""
        return read_ids(self._masks[self.frames[index]])


class SceneVideo:
    """A film of one embedded scene; its objects have the numbers that `Scenes` gives them."""

    def __init__(self, scenes: Scenes, index: int, *, frames: int, decoding: Decoding = RGB) -> None:
        self._decoding = decoding
        film = scenes.sequence(index, frames=frames)
        self.name = scenes[index].name.replace("/", "-")
        self.frames = tuple(f"{number:05d}" for number in range(frames))
        self.annotated = tuple(range(frames))
        self.height, self.width = film.instances.shape[1:]
        self._film = film

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """See `Video`."""
        return pixels_of(self._film.images[index], name=self.name, decoding=self._decoding)

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """See `Video`."""
        return self._film.instances[index]


@dataclasses.dataclass(frozen=True)
class VideoSet:
    """Videos that are opened, and those that were left out: why, by their names."""

    videos: tuple[Video, ...]
    left_out: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.videos)

    def __iter__(self) -> Iterator[Video]:
        return iter(self.videos)


def open_videos(
    config: VideoConfig, *, check: Callable[[Video], None] = lambda video: None, decoding: Decoding = RGB
) -> VideoSet:
    """Opens the videos that a config describes; each has at least one object in its first frame.

    Args:
        config: which videos; with `on_error="skip"`, those that cannot be used are left out.
        check: raises a `UserError` where more is wrong with a video.
        decoding: which channels are read of their frames.

    Raises:
        UserError: a file is missing or has the wrong content, a video is too short to be judged or has no object, all videos
            are left out, or the config lacks a value.
    """
    videos, left_out = list[Video](), dict[str, str]()
    for name, opening in (_scene_videos if config.name == "scenes" else _davis_videos)(config, decoding):
        try:
            video = opening()
            _check(video)
            check(video)
        except UserError as error:
            if config.on_error == "fail":
                raise
            log.warning("left out: %s", error)
            left_out[name] = str(error)
        else:
            videos.append(video)
    if not videos:
        raise UserError(f"all {len(left_out)} videos are left out, the first because: {next(iter(left_out.values()))}")
    return VideoSet(tuple(videos), left_out)


def judged_frames(video: Video) -> tuple[int, ...]:
    """The numbers of the frames whose masks are compared with the truth.

    Where every frame has a mask, all but the first and the last, as in DAVIS; else those that have one, but the first.
    """
    return video.annotated[1:-1] if len(video.annotated) == len(video.frames) else video.annotated[1:]


def _check(video: Video) -> None:
    if len(video.annotated) == len(video.frames) < 3:
        raise UserError(
            f"video {video.name} has {len(video.frames)} frames; the first and the last one are not judged, so it "
            "needs at least 3"
        )
    if not video.mask(0).any():
        void = isinstance(video, FileVideo) and bool((video.ids(0) == _VOID).any())
        raise UserError(
            f"video {video.name}: the mask of its first frame has no object, so there is nothing to follow"
            + ("; it has 0 and 255 alone, and 255 is undecided in DAVIS-2017: write 1 for the object" if void else "")
        )


def _scene_videos(config: VideoConfig, decoding: Decoding) -> Iterator[tuple[str, Callable[[], Video]]]:
    count = min(config.count, config.limit) if config.limit > 0 else config.count
    scenes = Scenes(count=count, size=config.scene_size, split=config.split, kind=config.scene_kind)
    for index in range(count):
        yield str(index), functools.partial(SceneVideo, scenes, index, frames=config.frames, decoding=decoding)


def _davis_videos(config: VideoConfig, decoding: Decoding) -> Iterator[tuple[str, Callable[[], Video]]]:
    if not config.root:
        raise UserError(
            "root of the video task is empty; name the folder that holds DAVIS-2017 (ImageSets, JPEGImages, Annotations), or "
            "use the embedded films (name = scenes)"
        )
    root, listing = Path(config.root), Path(config.root, "ImageSets", "2017", f"{config.split}.txt")
    try:
        names = [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{listing} cannot be read ({reason(error)}); expected the DAVIS-2017 layout, in which this file lists the "
            f'videos of split "{config.split}"'
        ) from error
    if not names:
        raise UserError(f"{listing} names no video; list one name per line")
    images, masks = (root / kind / config.resolution for kind in ("JPEGImages", "Annotations"))
    for name in names[: config.limit] if config.limit > 0 else names:
        folders = {"images": images / name, "masks": masks / name}
        yield name, functools.partial(FileVideo, name, decoding=decoding, **folders)


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
        raise UserError(f"mask {path} is missing; every frame that is judged needs one")
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


def _ordered(folder: Path) -> dict[str, Path]:
    """Frames by their name without suffix, in the order of these names, in which numbers count as numbers."""
    found: dict[str, Path] = {}
    for path in folder.glob("*"):
        if path.suffix.lower() in _FRAMES and _is_shown(path):
            other = found.setdefault(path.stem, path)
            if other != path:
                first, second = sorted((path.name, other.name))
                raise UserError(f"{folder}: two frames are named {path.stem} ({first}, {second}); remove one")
    if not found:
        raise UserError(f"{folder} holds no frames ({' '.join(_FRAMES)}); complete the data set")
    return {stem: found[stem] for stem in sorted(found, key=natural_order)}


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort names by, in which numbers count as numbers: frame-9 comes before frame-10."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], name


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _gap(names: Sequence[str]) -> str:
    """A number that is left out of names that are numbers at equal steps otherwise; empty if there is none."""
    numbers = [int(name) for name in names if name.isdecimal()]
    if len(numbers) < len(names) or len(names) < 3:
        return ""
    steps = [after - before for before, after in pairwise(numbers)]
    place = next((place for place, step in enumerate(steps) if step > min(steps)), None)
    return "" if place is None else f"{numbers[place] + min(steps):0{len(names[0])}d}"


def _require_size(path: Path, *, width: int, height: int, what: str, like: Path) -> None:
    size = open_image(path).size
    if size != (width, height):
        raise UserError(
            f"{what} {path} is {size[0]}×{size[1]}, the first in {like} {width}×{height}; give all of them one size"
        )
