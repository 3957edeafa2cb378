"""Images with depth maps: a depth file for each image, such as NYUv2's, and the embedded scenes."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32
from PIL import Image

from flsl_jax.config import DepthSourceConfig
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, decode_image, pixels_of
from flsl_jax.data.images.image_files import open_image, upright_size
from flsl_jax.data.images.listing import IMAGE_SUFFIXES, list_images, read_file
from flsl_jax.data.records import checked_index
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.masks import MaskedRecord, PixelSource
from flsl_jax.errors import UserError, reason

_THREADS = 8
# Pillow's modes whose pixels are whole numbers of 16 or more bits, and floats.
_WHOLE_MODES, _FLOAT_MODES = ("I", "I;16", "I;16B", "I;16L"), ("F",)
_PICTURES, _ARRAYS = (".png", ".tif", ".tiff"), (".npy", ".npz")


@dataclasses.dataclass(frozen=True)
class _Pair:
    image: Path
    depth: Path


@runtime_checkable
class DepthSource(PixelSource, Protocol):
    """A data set whose masks hold depths. `sizes`: (height, width) of the images, each once."""

    sizes: tuple[tuple[int, int], ...]


class DepthFiles:
    """Image files, each with a depth file of its size.

    The sizes of all files are compared at once; pixels are read when a record is asked for.

    Args:
        pairs: the files of every record.
        scale: how many of the whole numbers in a depth file are a metre.
        name: for messages.
        decoding: which channels are read of the images.

    Raises:
        UserError: a file cannot be opened, is not of its image's size, or holds no depths.
    """

    def __init__(self, pairs: Sequence[_Pair], *, scale: float, name: str, decoding: Decoding = RGB) -> None:
        self.name, self._pairs, self._scale, self._decoding = name, tuple(pairs), scale, decoding
        with ThreadPoolExecutor(_THREADS) as threads:
            self.sizes = tuple(dict.fromkeys(threads.map(_checked_size, self._pairs)))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> MaskedRecord:
        """One decoded record.

        Raises:
            UserError: a file is damaged.
        """
        pair = self._pairs[checked_index(index, len(self))]
        try:
            image = decode_image(read_file(pair.image), name=str(pair.image), decoding=self._decoding)
        except (OSError, DecodeError) as error:
            raise UserError(f"image {pair.image} cannot be read ({reason(error)}); repair or remove it") from error
        return MaskedRecord(image=image, mask=read_depth(pair.depth, scale=self._scale), name=str(pair.image))


class DepthScenes:
    """The embedded scenes with how far away each pixel is; see `Scenes.depth`."""

    def __init__(self, scenes: Scenes, *, decoding: Decoding = RGB) -> None:
        self.name, self.sizes = scenes.name, ((scenes.size, scenes.size),)
        self._scenes, self._decoding = scenes, decoding

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> MaskedRecord:
        record = self._scenes[index]
        image = pixels_of(record.image, name=record.name, decoding=self._decoding)
        return MaskedRecord(image=image, mask=self._scenes.depth(index), name=record.name)


def open_depths(config: DepthSourceConfig, *, decoding: Decoding = RGB) -> DepthSource:
    """Opens what a config describes; masks are metres, 0 where the depth is not known.

    Raises:
        UserError: files are missing, do not belong together or have the wrong content, or the config lacks a value.
    """
    if config.name == "scenes":
        count = min(config.count, config.limit) if config.limit > 0 else config.count
        scenes = Scenes(count=count, size=config.scene_size, split=config.split, kind=config.scene_kind)
        return DepthScenes(scenes, decoding=decoding)
    for key in ("images", "depths"):
        if not getattr(config, key):
            raise UserError(
                f"{key} of the depth maps is empty; name the folders of the images and of their depth files"
            )
        if not Path(getattr(config, key)).is_dir():
            raise UserError(f"{key} {getattr(config, key)} is not a folder; name the folder of the {key}")
    pairs = _named(config) if config.names else _matched(config)
    pairs = pairs[: config.limit] if config.limit > 0 else pairs
    return DepthFiles(pairs, scale=config.scale, name=config.depths, decoding=decoding)


def read_depth(path: Path, *, scale: float) -> Float32[np.ndarray, "H W"]:
    """The depths in a file, in metres; 0 where they are missing: not finite, 0 or less in the file.

    Args:
        path: a PNG of 16 bits, a TIFF of 16 bits or of floats, an .npy, or an .npz with one array or with one named depth.
        scale: how many of the whole numbers in a file are a metre; floats are metres.

    Raises:
        UserError: the file cannot be read, or holds no depths.
    """
    values = _array(path) if path.suffix.lower() in _ARRAYS else np.asarray(_picture(path, pixels=True))
    metres = values.astype(np.float64) / scale if values.dtype.kind in "iu" else values.astype(np.float64)
    known = np.isfinite(metres) & (metres > 0)
    return np.where(known, metres, 0).astype(np.float32)


def _picture(path: Path, *, pixels: bool = False) -> Image.Image:
    picture = open_image(path, pixels=pixels)
    if picture.mode not in (*_WHOLE_MODES, *_FLOAT_MODES):
        raise UserError(
            f"depth {path} has pixels of mode {picture.mode}; expected one channel of 16 bits or of floats: 8 bits cannot "
            "hold depths, such files are pictures of them"
        )
    return picture


def _array(path: Path) -> np.ndarray:
    """The one array [H, W] of an .npy or .npz file, of numbers."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                names = list(loaded)
                if len(names) != 1 and "depth" not in names:
                    raise UserError(
                        f"depth {path} holds {', '.join(names[:5]) or 'nothing'}; expected one array, or one named depth"
                    )
                loaded = loaded["depth" if "depth" in names else names[0]]
            values = np.asarray(loaded)
    except UserError:
        raise
    except Exception as error:  # NumPy's readers raise many kinds on damaged files
        raise UserError(f"depth {path} cannot be read ({reason(error)}); repair or replace it") from error
    values = values.reshape([side for side in values.shape if side != 1]) if values.ndim > 2 else values
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise UserError(
            f"depth {path} is {values.dtype} of shape {list(values.shape)}; expected numbers of shape [H, W]"
        )
    return values


def _checked_size(pair: _Pair) -> tuple[int, int]:
    """Height and width of both files."""
    size = upright_size(pair.image)
    if pair.depth.suffix.lower() in _ARRAYS:
        found = _array(pair.depth).shape[::-1]
    else:
        found = _picture(pair.depth).size
    if found != size:
        raise UserError(
            f"depth {pair.depth} is {found[0]}×{found[1]}, its image {pair.image} {size[0]}×{size[1]} (upright); give the "
            "depths the size of their image"
        )
    return size[1], size[0]


def _matched(config: DepthSourceConfig) -> list[_Pair]:
    """Images and depth files whose relative names are equal up to the suffix, in the order of the images' paths."""
    root, depths = Path(config.images), _depth_files(Path(config.depths))
    images = [path.decode() for path in list_images(config.images).paths]
    if root.resolve() == Path(config.depths).resolve():
        images = [path for path in images if root / path not in depths.values()]
    twice = [stem for stem, count in Counter(map(_stem, images)).items() if count > 1]
    if twice:
        raise UserError(f"images {root}: two images are named {twice[0]}; a depth file is found by this name alone")
    pairs = [_Pair(image=root / path, depth=depths[_stem(path)]) for path in images if _stem(path) in depths]
    if not pairs:
        shown = f"such as {images[0]}" if images else "and there is no image"
        raise UserError(
            f"depths {config.depths}: none of its {len(depths)} files has the name of an image of {root}, {shown}; name the "
            "folders of files of the same relative names, or give names, a list of pairs"
        )
    return pairs


def _depth_files(folder: Path) -> dict[str, Path]:
    """Depth files by their relative names without suffix."""
    suffixes = (*_PICTURES, *_ARRAYS)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    files: dict[str, Path] = {}
    for path in found:
        stem = _stem(str(path.relative_to(folder)))
        if stem in files:
            raise UserError(f"depths {folder}: {files[stem].name} and {path.name} have one name; leave one of them")
        files[stem] = path
    if not files:
        raise UserError(f"depths {folder} holds no depth file ({' '.join(suffixes)}); name the folder that does")
    return files


def _stem(path: str) -> str:
    return str(Path(path).with_suffix(""))


def _named(config: DepthSourceConfig) -> list[_Pair]:
    """The pairs that a text file lists: an image and its depth file a line, and whatever follows, such as a focal length."""
    path = Path(config.names)
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"names {path} cannot be read ({reason(error)}); give a text file with a pair per line"
        ) from error
    short = next((line for line in lines if len(line) < 2), None)
    if short or not lines:
        raise UserError(
            f"names {path}: {f'line {short[0]!r} names one file' if short else 'holds no line'}; expected an image and its "
            "depth file a line, such as kitchen/rgb_1.jpg kitchen/depth_1.png"
        )
    # NYUv2's lists begin paths with a slash, and have the word None where there is no depth.
    pairs = [
        _Pair(image=Path(config.images, line[0].lstrip("/")), depth=Path(config.depths, line[1].lstrip("/")))
        for line in lines
        if line[1] != "None"
    ]
    missing = [file for pair in pairs for file in (pair.image, pair.depth) if not file.is_file()]
    if missing or not pairs:
        raise UserError(
            f"names {path}: {len(missing)} of the files of its {len(lines)} lines are not there"
            + (f", such as {missing[0]}" if missing else "")
            + "; paths are below images and depths"
        )
    wrong = [
        file
        for pair in pairs
        for file, suffixes in ((pair.image, IMAGE_SUFFIXES), (pair.depth, (*_PICTURES, *_ARRAYS)))
        if file.suffix.lower() not in suffixes
    ]
    if wrong:
        raise UserError(
            f"names {path}: {wrong[0]} is neither an image nor a depth file by its name; list both in this order"
        )
    return pairs
