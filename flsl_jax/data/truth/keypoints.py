"""Pairs of images with the same key points: files in the layout of SPair-71k, and pairs of the embedded scenes."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from flsl_jax.config import KeypointSourceConfig, nearest_key
from flsl_jax.data.annotation_files import load_json
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, decode_image, pixels_of
from flsl_jax.data.images.image_files import upright_size
from flsl_jax.data.images.listing import read_file
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError, reason

_logger = logging.getLogger(__name__)
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class KeypointPair:
    """P points that two images have in common.

    `name`: of the pair. `source`, `target`: names of the images. `source_points`, `target_points`: (x, y) in pixels of the
    upright images, in the same order; whole numbers are the middles of pixels. `target_size`: width and height. `longest`: the
    longer side of the target object's box, in pixels.
    """

    name: str
    category: str
    source: str
    target: str
    source_points: Float[np.ndarray, "P 2"]
    target_points: Float[np.ndarray, "P 2"]
    target_size: tuple[int, int]
    longest: float


@runtime_checkable
class KeypointSource(Protocol):
    """Pairs, and the images that they name. `name` is for messages; each of the `pairs` has a point or more."""

    name: str
    pairs: Sequence[KeypointPair]

    def image(self, name: str) -> UInt8[np.ndarray, "H W C"]:
        """An image of a pair, decoded and upright."""
        ...


class KeypointFiles:
    """Files in the layout of SPair-71k: JPEGImages/CATEGORY/*.jpg and PairAnnotation/SPLIT/*.json.

    All annotations are read and the sizes of all images compared at once; pixels are read when they are asked for.

    Args:
        root: the folder that holds the layout.
        files: the annotations to read, in order.
        limit: of the pairs with a point, the first so many of each category; 0: all.
        decoding: which channels are read of the images.

    Raises:
        UserError: a file is missing, unreadable or has the wrong content, or no pair has a point.
    """

    def __init__(self, root: Path, files: Sequence[Path], *, limit: int, decoding: Decoding = RGB) -> None:
        self._decoding = decoding
        self.name, self._images = str(root), root / "JPEGImages"
        with ThreadPoolExecutor(_THREADS) as threads:
            read = list(threads.map(_read_pair, files))
            pairs = [pair for pair, _ in read if len(pair.source_points)]
            if not pairs:
                raise UserError(
                    f"{root}: none of its {len(read)} pairs has a key point; name the annotations of SPair-71k"
                )
            if len(pairs) < len(read):
                _logger.info(
                    "%s: left out %d of %d pairs, which have no key point", root, len(read) - len(pairs), len(read)
                )
            self.pairs: Sequence[KeypointPair] = _first_of_each(pairs, limit)
            used = {name for pair in self.pairs for name in (pair.source, pair.target)}
            sizes = {name: (size, pair.name) for pair, both in read for name, size in both.items() if name in used}
            list(threads.map(self._check_size, sizes.items()))

    def image(self, name: str) -> UInt8[np.ndarray, "H W C"]:
        """See `KeypointSource`.

        Raises:
            UserError: the file is damaged.
        """
        path = self._images / name
        try:
            return decode_image(read_file(path), name=str(path), decoding=self._decoding)
        except (OSError, DecodeError) as error:
            raise UserError(f"image {path} cannot be read ({reason(error)}); repair it") from error

    def _check_size(self, item: tuple[str, tuple[tuple[int, int], str]]) -> None:
        name, (size, pair) = item
        path = self._images / name
        if not path.is_file():
            raise UserError(f"image {path} is missing, which pair {pair} names; complete the data set")
        found = upright_size(path)
        if found != size:
            raise UserError(
                f"image {path} is {found[0]}×{found[1]} (upright), and {size[0]}×{size[1]} in pair {pair}; its key points "
                "would lie elsewhere: use the images that belong to the annotations"
            )


class SceneKeypointPairs:
    """Pairs of embedded scenes: each scene with the next one, in a circle, that shows its first object's class.

    Points are places that all objects of a class have, those of them that are seen in both scenes.
    """

    def __init__(self, scenes: Scenes, *, limit: int, categories: Sequence[str], decoding: Decoding = RGB) -> None:
        self._decoding = decoding
        self.name, self._scenes = scenes.name, scenes
        self._numbers = {scenes.name_of(index): index for index in range(len(scenes))}
        objects = [scenes.keypoints(index) for index in range(len(scenes))]
        names, size = list(self._numbers), scenes.size
        pairs = []
        for index, own in enumerate(objects):
            following = [(index + step) % len(objects) for step in range(1, len(objects))]
            for other, found in ((place, item) for place in following for item in objects[place]):
                shown = ~np.isnan(own[0].points + found.points).any(axis=1)
                if found.label == own[0].label and shown.any():
                    pair = KeypointPair(
                        name=f"{names[index]}-{names[other]}",
                        category=scenes.class_names[found.label],
                        source=names[index],
                        target=names[other],
                        source_points=own[0].points[shown],
                        target_points=found.points[shown],
                        target_size=(size, size),
                        longest=float((found.box[2:] - found.box[:2]).max()),
                    )
                    pairs.append(pair)
                    break
        if not pairs:
            raise UserError(
                f"{self.name}: no two of {len(scenes)} scenes show the same places of one class; raise count"
            )
        self.pairs: Sequence[KeypointPair] = _first_of_each(_of_categories(pairs, categories), limit)

    def image(self, name: str) -> UInt8[np.ndarray, "H W C"]:
        """See `KeypointSource`."""
        return pixels_of(self._scenes[self._numbers[name]].image, name=name, decoding=self._decoding)


def open_keypoints(config: KeypointSourceConfig, *, decoding: Decoding = RGB) -> KeypointSource:
    """Opens what a config describes.

    Raises:
        UserError: files are missing or have the wrong content, or the config lacks a value.
    """
    if config.name == "scenes":
        scenes = Scenes(count=config.count, size=config.scene_size, split=config.split, kind=config.scene_kind)
        return SceneKeypointPairs(scenes, limit=config.limit, categories=config.categories, decoding=decoding)
    if not config.root:
        raise UserError("root of the key points is empty; name the folder that holds SPair-71k, or use name=scenes")
    root, split = Path(config.root), {"train": "trn"}.get(config.split, config.split)
    if not (root / "PairAnnotation" / split).is_dir():
        raise UserError(
            f"{root / 'PairAnnotation' / split} is not a folder; expected the layout of SPair-71k below root (JPEGImages, "
            "PairAnnotation, Layout) and a split of train, val or test"
        )
    files = _listed(root, split, config.layout) if config.layout else _all_files(root / "PairAnnotation" / split)
    return KeypointFiles(root, _chosen(files, config.categories), limit=config.limit, decoding=decoding)


def _listed(root: Path, split: str, layout: str) -> list[Path]:
    """The annotations that a list of the data set names, such as `000001-2007_000032-2007_000256:aeroplane`."""
    listing, folder = root / "Layout" / layout / f"{split}.txt", root / "PairAnnotation" / split
    try:
        names = listing.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{listing} cannot be read ({reason(error)}); set layout to large or small, or to nothing for every pair in "
            f"{folder}"
        ) from error
    if not names:
        raise UserError(
            f"{listing} names no pair; list one per line, or set layout to nothing for every pair in {folder}"
        )
    there = {path.name for path in _all_files(folder)}
    # Where file names may not hold a colon, archives are unpacked with another character in its place.
    spelled = [[name.replace(":", mark) + ".json" for mark in (":", "_", "-", "")] for name in names]
    missing = [options[0] for options in spelled if not there.intersection(options)]
    if missing:
        raise UserError(
            f"{listing}: {len(missing)} of its {len(names)} pairs are not in {folder}, such as {missing[0]}; complete the "
            "data set, or set layout to nothing for every pair there"
        )
    return [folder / next(option for option in options if option in there) for options in spelled]


def _all_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    if not files:
        raise UserError(f"{folder} holds no .json; expected the annotations of pairs of SPair-71k")
    return files


def _chosen(files: list[Path], categories: Sequence[str]) -> list[Path]:
    """The files of some categories, which their names end with."""
    if not categories:
        return files
    known = sorted({path.stem.rpartition(":")[2] for path in files if ":" in path.stem})
    for category in categories:
        if known and category not in known:
            raise UserError(f"category {category!r} has no pair here; {nearest_key(category, known)}")
    chosen = [path for path in files if path.stem.endswith(tuple(categories))]
    if not chosen:
        raise UserError(f"no pair is of the categories {', '.join(categories)}; file names end with the category")
    return chosen


def _of_categories(pairs: list[KeypointPair], categories: Sequence[str]) -> list[KeypointPair]:
    known = sorted({pair.category for pair in pairs})
    for category in categories:
        if category not in known:
            raise UserError(f"category {category!r} has no pair here; {nearest_key(category, known)}")
    return [pair for pair in pairs if not categories or pair.category in categories]


def _first_of_each(pairs: list[KeypointPair], limit: int) -> list[KeypointPair]:
    """The first `limit` pairs of each category, in their order; 0: all."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        seen[pair.category] += 1
        if not limit or seen[pair.category] <= limit:
            kept.append(pair)
    return kept


def _read_pair(path: Path) -> tuple[KeypointPair, dict[str, tuple[int, int]]]:
    """A pair, and the size (width, height) that the file gives of each of its images."""
    try:
        content = load_json(path)
        category = str(content["category"])
        names = [f"{category}/{content[f'{side}_imname']}" for side in ("src", "trg")]
        sizes = [_size(content[f"{side}_imsize"]) for side in ("src", "trg")]
        points = [_points(content[f"{side}_kps"]) for side in ("src", "trg")]
        x0, y0, x1, y1 = (float(edge) for edge in content["trg_bndbox"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"pair {path}: not an annotation of SPair-71k ({type(error).__name__}: {error})") from error
    if len(points[0]) != len(points[1]):
        raise UserError(
            f"pair {path}: src_kps has {len(points[0])} points and trg_kps {len(points[1])}; give as many of both"
        )
    if not (np.isfinite([x0, y0, x1, y1]).all() and x1 > x0 and y1 > y0):
        raise UserError(
            f"pair {path}: trg_bndbox is {[x0, y0, x1, y1]}; expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1"
        )
    if names[0] == names[1]:
        raise UserError(
            f"pair {path} has one image twice, {names[0]}; every point would find itself: leave the pair out"
        )
    for name, size, own in zip(names, sizes, points):
        if len(own) and not ((own >= 0) & (own < size)).all():
            wrong = own[~((own >= 0) & (own < size)).all(axis=1)][0]
            raise UserError(
                f"pair {path}: key point {wrong.tolist()} is not in {name}, which is {size[0]}×{size[1]}; correct it"
            )
    pair = KeypointPair(
        name=path.stem,
        category=category,
        source=names[0],
        target=names[1],
        source_points=points[0],
        target_points=points[1],
        target_size=sizes[1],
        longest=max(x1 - x0, y1 - y0),
    )
    return pair, dict(zip(names, sizes))


def _size(values: Any) -> tuple[int, int]:
    width, height = (int(value) for value in values[:2])
    return width, height


def _points(values: Any) -> Float[np.ndarray, "P 2"]:
    points = np.asarray(values, np.float64).reshape(-1, 2) if len(values) else np.zeros((0, 2))
    if len(points) != len(values):
        raise ValueError("key points are pairs of numbers")
    return points
