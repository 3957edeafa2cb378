"""Images with segmentation masks: folders of PNGs with class ids, COCO panoptic files, and the embedded scenes."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Integer, UInt8

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.annotation_files import load_json
from flsl_jax.data.box_names import match_names
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, decode_image, pixels_of
from flsl_jax.data.images.image_files import open_image, upright_size
from flsl_jax.data.images.listing import read_file
from flsl_jax.data.records import checked_index, digest_of
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.known_classes import KNOWN_CLASSES, VOID_IDS
from flsl_jax.data.truth.mask_classes import IGNORED, LARGEST_ID, MaskClasses, read_class_names
from flsl_jax.errors import UserError, one_line, reason

_logger = logging.getLogger(__name__)
# Pillow's modes of a PNG whose pixels are ids: palette, grey of 8 or fewer bits, grey of 16 bits.
_ID_MODES = ("P", "L", "1", "I", "I;16", "I;16B")
_THREADS = 8
# What the names of Cityscapes' masks end in, after the part that they share with their images.
_CITYSCAPES_ENDS = ("_gtFine_labelIds.png", "_gtCoarse_labelIds.png")


@dataclasses.dataclass(frozen=True)
class MaskedRecord:
    """One image, uint8 [H, W, C] upright, and what each of its pixels is.

    `mask`: labels, int32 [H, W], of which -1 is never counted; of images with depth, metres, float32, of which 0 is not known.
    """

    image: UInt8[np.ndarray, "H W C"]
    mask: Int32[np.ndarray, "H W"] | Float32[np.ndarray, "H W"]
    name: str


@runtime_checkable
class PixelSource(Protocol):
    """A data set with random access, which decodes a record when it is asked for. `name` is for messages."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> MaskedRecord: ...


@runtime_checkable
class MaskedSource(PixelSource, Protocol):
    """A data set whose masks hold labels. `class_names[label]` is the name of a label.

    `digest` stands for which images and masks there are, by their names and in their order, and for which ids are which labels;
    not for where they lie, nor for their pixels.
    """

    class_names: tuple[str, ...]

    @property
    def digest(self) -> str: ...

    @property
    def num_classes(self) -> int:
        """The number of labels, 0 … `num_classes` - 1, whether they occur or not."""
        ...


@dataclasses.dataclass(frozen=True)
class _Pair:
    """The files of one record; `segments` maps the segment ids of a panoptic PNG to class ids."""

    name: str
    image: Path
    mask: Path
    segments: dict[int, int] | None = None


class MaskedFiles:
    """Image files, each with a mask file.

    The sizes of all files are compared at once, from their headers; pixels are read when a record is asked for.

    Args:
        pairs: the files of every record.
        classes: the ids and their labels.
        name: for messages.
        decoding: which channels are read of the images.

    Raises:
        UserError: a file cannot be opened, the size of a mask is not that of its upright image, or its pixels are not ids.
    """

    def __init__(self, pairs: Sequence[_Pair], *, classes: MaskClasses, name: str, decoding: Decoding = RGB) -> None:
        self._decoding = decoding
        self.name, self.class_names = name, classes.names
        self._pairs, self._classes = tuple(pairs), classes
        with ThreadPoolExecutor(_THREADS) as threads:
            list(threads.map(_check_headers, self._pairs))

    @property
    def num_classes(self) -> int:
        """See `MaskedSource`."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """See `MaskedSource`."""
        texts = (f"{pair.name} {pair.mask.name} {sorted((pair.segments or {}).items())}" for pair in self._pairs)
        return digest_of(self._classes.digest, *texts)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> MaskedRecord:
        """One decoded record.

        Raises:
            UserError: a file is damaged, or the mask has an id that is neither a class nor ignored.
        """
        pair = self._pairs[checked_index(index, len(self))]
        try:
            image = decode_image(read_file(pair.image), name=str(pair.image), decoding=self._decoding)
        except (OSError, DecodeError) as error:
            raise UserError(f"image {pair.image} cannot be read ({reason(error)}); repair or remove it") from error
        return MaskedRecord(image=image, mask=self._classes.labels(self.ids(index), file=pair.mask), name=pair.name)

    def ids(self, index: int) -> Integer[np.ndarray, "H W"]:
        """The class ids in a mask, as the file has them; -1 where a panoptic PNG has no segment.

        Raises:
            UserError: the file is damaged.
        """
        pair = self._pairs[checked_index(index, len(self))]
        pixels = np.asarray(open_image(pair.mask, pixels=True))
        return pixels if pair.segments is None else _panoptic_ids(pixels, pair.segments, file=pair.mask)


class MaskedScenes:
    """The embedded scenes with their class masks; label 0 is the background."""

    def __init__(self, scenes: Scenes, *, classes: MaskClasses, decoding: Decoding = RGB) -> None:
        self._decoding = decoding
        self.name, self.class_names = scenes.name, classes.names
        self._scenes, self._classes = scenes, classes

    @property
    def num_classes(self) -> int:
        """See `MaskedSource`."""
        return len(self.class_names)

    @property
    def digest(self) -> str:
        """See `MaskedSource`."""
        return digest_of(self._classes.digest, self._scenes.digest)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> MaskedRecord:
        record = self._scenes[index]
        image = pixels_of(record.image, name=record.name, decoding=self._decoding)
        mask = self._classes.labels(self._scenes.masks(index).classes, file=record.name)
        return MaskedRecord(image=image, mask=mask, name=record.name)


def open_masked(config: MaskedSourceConfig, *, decoding: Decoding = RGB) -> MaskedSource:
    """Opens what a config describes.

    Labels depend only on the class file (or the categories of the panoptic file) and on `ignore`, never on the ids that
    happen to occur. Train and val therefore have the same labels if they name the same classes. Without a class file, every
    id from 0 to 255 that is not ignored is a class, and its name is its number.

    Images without a mask are left out, and a warning counts them; VOC has masks for some of its images only. A mask without
    an image is an error.

    Raises:
        UserError: files are missing, do not belong together or have the wrong content, or the config lacks a value.
    """
    if config.name == "scenes":
        count = min(config.count, config.limit) if config.limit > 0 else config.count
        scenes = Scenes(count=count, size=config.scene_size, split=config.split, kind=config.scene_kind)
        names = dict(enumerate(("background", *scenes.class_names)))
        return MaskedScenes(scenes, classes=MaskClasses(names, ignore=config.ignore), decoding=decoding)
    needed = ("images", "masks", "annotations") if config.name == "panoptic" else ("images", "masks")
    for key in needed:
        if not getattr(config, key):
            raise UserError(f'masks of source "{config.name}": {key} is empty; set {", ".join(needed)}')
    images = {path: Path(config.images, path) for path in _listed(config.images)}
    find = _panoptic_pairs if config.name == "panoptic" else _folder_pairs
    pairs, names = find(config, images)
    if config.names:
        pairs = _named(pairs, Path(config.names))
    pairs = pairs[: config.limit] if config.limit > 0 else pairs
    known = config.classes or ("cityscapes19" if config.name == "cityscapes" else "")
    ignore = (*config.ignore, *VOID_IDS.get(known, ()))
    classes = MaskClasses(names, ignore=ignore, merged=known in KNOWN_CLASSES)
    return MaskedFiles(pairs, classes=classes, name=config.masks, decoding=decoding)


def _listed(root: str) -> list[str]:
    source = FolderSource(root)
    return [source.path(index) for index in range(len(source))]


def _folder_pairs(config: MaskedSourceConfig, images: dict[str, Path]) -> tuple[list[_Pair], Mapping[int, str]]:
    """Images and masks whose relative names are equal up to the suffix, in the order of the images' paths."""
    listed = [path for path in _listed(config.masks) if path.lower().endswith(".png")]
    masks = {str(Path(path).with_suffix("")): path for path in listed}
    stems = {path: str(Path(path).with_suffix("")) for path in images}
    if config.name == "cityscapes":
        masks = _cityscapes_masks(config, listed)
        stems = {path: stem.removesuffix("_leftImg8bit") for path, stem in stems.items()}
    twice = [stem for stem, count in Counter(stems.values()).items() if count > 1]
    if twice:
        raise UserError(f"images {config.images}: two images are named {twice[0]}; a mask is found by this name alone")
    _refuse_missing([masks[stem] for stem in sorted(masks.keys() - stems.values())], config=config)
    pairs = [
        _Pair(name=path, image=file, mask=Path(config.masks, masks[stems[path]]))
        for path, file in images.items()
        if stems[path] in masks
    ]
    if not pairs:
        raise UserError(
            f"masks {config.masks}: no .png here has the name of an image of {config.images}; name the folders of the "
            "images and of their masks, with the same relative names"
        )
    _warn_of_unmasked(len(images) - len(pairs), config=config)
    return pairs, _class_names(config)


def _class_names(config: MaskedSourceConfig) -> Mapping[int, str]:
    """Names of ids: those of a known set of classes, of a file, or their numbers."""
    known = config.classes or ("cityscapes19" if config.name == "cityscapes" else "")
    if known in KNOWN_CLASSES:
        return KNOWN_CLASSES[known]
    return read_class_names(Path(known)) if known else {number: str(number) for number in range(256)}


def _cityscapes_masks(config: MaskedSourceConfig, listed: list[str]) -> dict[str, str]:
    """Masks of label ids, by what their names have in common with the images': CITY/CITY_000000_000019."""
    found: dict[str, str] = {}
    for path in listed:
        stem = next((path.removesuffix(end) for end in _CITYSCAPES_ENDS if path.endswith(end)), None)
        if stem in found:
            raise UserError(
                f"masks {config.masks}: {found[stem]} and {path} are of one image; name gtFine or gtCoarse alone"
            )
        if stem is not None:
            found[stem] = path
    if not found:
        raise UserError(
            f"masks {config.masks}: no file ends in {' or '.join(_CITYSCAPES_ENDS)}; name a split of Cityscapes' gtFine, such "
            "as gtFine/val"
        )
    return found


def _panoptic_pairs(config: MaskedSourceConfig, images: dict[str, Path]) -> tuple[list[_Pair], dict[int, str]]:
    """The records of the JSON's annotations, sorted by the images' names; crowds count as pixels of their class."""
    path = Path(config.annotations)
    try:
        content = load_json(path)
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        names = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        found = [
            _Pair(
                name=files[item["image_id"]],
                image=Path(config.images, files[item["image_id"]]),
                mask=Path(config.masks, str(item["file_name"])),
                segments={int(segment["id"]): int(segment["category_id"]) for segment in item["segments_info"]},
            )
            for item in content["annotations"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"masks {path}: not a COCO panoptic file ({type(error).__name__}: {error})") from error
    if min(names, default=0) < 0 or max(names, default=0) > LARGEST_ID:
        raise UserError(f"masks {path}: expected category ids from 0 to {LARGEST_ID}")
    if not found:
        raise UserError(f"masks {path}: it has no annotations; name the JSON of the panoptic PNGs")
    unlisted = {category for pair in found for category in (pair.segments or {}).values()} - names.keys()
    if unlisted:
        raise UserError(
            f"masks {path}: category_id {min(unlisted)} is not among the file's categories; add or remove it"
        )
    match = match_names(list(images), [pair.name for pair in found])
    image_of = {name: image for image, name in match.listed.items()}
    _refuse_missing([str(pair.mask) for pair in found if pair.name not in image_of], config=config)
    if match.respelled:
        name, image = match.respelled[0]
        said = f"{len(match.respelled)} names matched by their ends, such as {name} with {image}"
        _logger.info("masks %s: %s", path, one_line(said))
    found = [dataclasses.replace(pair, name=image_of[pair.name], image=images[image_of[pair.name]]) for pair in found]
    missing = [str(pair.mask) for pair in found if not pair.mask.is_file()]
    if missing:
        raise UserError(f"masks {path}: {len(missing)} of its PNGs are not in {config.masks}, such as {missing[0]}")
    _warn_of_unmasked(len(images) - len({pair.name for pair in found}), config=config)
    return sorted(found, key=lambda pair: pair.name), names


def _named(pairs: list[_Pair], path: Path) -> list[_Pair]:
    """The records that a text file lists, in its order; it has one name without suffix per line."""
    try:
        wanted = [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"names {path} cannot be read ({reason(error)}); give a text file with one name per line"
        ) from error
    by_name = {str(Path(pair.name).with_suffix("")): pair for pair in pairs}
    missing = [name for name in wanted if name not in by_name]
    if missing or not wanted:
        such = f"{len(missing)} of its {len(wanted)} names have no image with a mask" + f", such as {missing[:1]}"
        raise UserError(f"names {path}: {such if wanted else 'holds no name'}; list images without their suffix")
    return [by_name[name] for name in wanted]


def _refuse_missing(masks: list[str], *, config: MaskedSourceConfig) -> None:
    if masks:
        cityscapes = config.name == "folder" and any(path.endswith("_labelIds.png") for path in masks)
        raise UserError(
            f"masks {config.masks}: {len(masks)} have no image in {config.images}, such as {masks[0]}; "
            + ("set name=cityscapes for its layout, or " if cityscapes else "")
            + ("name the same split of leftImg8bit and of gtFine, or " if config.name == "cityscapes" else "")
            + "add the images or remove the masks"
        )


def _warn_of_unmasked(count: int, *, config: MaskedSourceConfig) -> None:
    if count:
        _logger.warning("%s: left out %d images without a mask in %s", config.images, count, config.masks)


def _check_headers(pair: _Pair) -> None:
    size, mask = upright_size(pair.image), open_image(pair.mask)
    if mask.size != size:
        raise UserError(
            f"mask {pair.mask} is {mask.size[0]}×{mask.size[1]}, its image {pair.image} {size[0]}×{size[1]} (upright); give "
            "the mask the size of its image"
        )
    expected = _ID_MODES if pair.segments is None else ("RGB",)
    if mask.mode not in expected:
        kind = "one channel of class ids" if pair.segments is None else "RGB segment ids (COCO panoptic)"
        panoptic = "; COCO panoptic needs name=panoptic and its annotations" if mask.mode == "RGB" else ""
        raise UserError(f"mask {pair.mask} has pixels of mode {mask.mode}; expected a PNG with {kind}{panoptic}")


def _panoptic_ids(
    pixels: UInt8[np.ndarray, "H W 3"], segments: dict[int, int], *, file: Path
) -> Int32[np.ndarray, "H W"]:
    """Category ids from a panoptic PNG, whose segment numbers are R + 256 G + 65536 B; number 0 is no segment and gives -1."""
    numbers = pixels.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
    found, places = np.unique(numbers, return_inverse=True)
    unlisted = [int(number) for number in found if number and int(number) not in segments]
    if unlisted:
        raise UserError(
            f"mask {file}: segment {unlisted[0]} is not in its annotation; use the JSON that belongs to these PNGs"
        )
    ids = np.array([segments[int(number)] if number else IGNORED for number in found], np.int32)
    return ids[places].reshape(numbers.shape)
