"""Which image an annotation is of: names of two lists matched however they are spelled, as long as there is no doubt."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from flsl_jax.errors import UserError

# Names of each side in an error message.
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class NameMatch:
    """Which annotations belong to which images.

    `listed`: the annotation's name of each image that has one. `respelled`: pairs of an annotation's and an image's name that
    agree in their last parts alone. `missing`: names of annotations of which no image is there. `doubtful`: names that fit
    several images, or share one image with others, each with an image that it fits.
    """

    listed: dict[str, str]
    respelled: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    doubtful: tuple[tuple[str, str], ...]


def spellings(image: str) -> tuple[str, str, str]:
    """The names by which an image is looked up as they are: its relative path, its file name, and that without suffix."""
    file_name = image.rsplit("/", 1)[-1]
    return image, file_name, os.path.splitext(file_name)[0]


def match_names(images: Sequence[str], annotations: Iterable[str]) -> NameMatch:
    """Finds the image of each annotation.

    An image's own path comes first, then its file name, then that without suffix. Annotations that are left are compared part
    by part from the end: `./a/1.jpg`, `train/a/1.jpg`, `a\\1.jpg` and `/home/me/a/1.jpg` are all of the image `a/1.jpg`. The
    image with the most parts in common has it. Where several have as many, or several annotations fit one image, none is
    matched.

    Args:
        images: relative paths with forward slashes.
        annotations: names in the file of annotations.
    """
    names = dict.fromkeys(annotations)
    listed, doubtful = _as_they_are(images, names)
    matched, doubted = set(listed.values()), {name for name, _ in doubtful}
    left = [name for name in names if name not in matched and name not in doubted]
    respelled, more = _by_their_ends([image for image in images if image not in listed], left)
    listed |= {image: name for name, image in respelled}
    doubtful += more
    found = {*listed.values(), *(name for name, _ in doubtful)}
    return NameMatch(
        listed=listed,
        respelled=tuple(respelled),
        missing=tuple(name for name in names if name not in found),
        doubtful=tuple(doubtful),
    )


def require_some(
    match: NameMatch, *, images: Sequence[str], annotations: Sequence[str], what: str, folder: str
) -> None:
    """Refuses annotations of which none belongs to an image.

    Args:
        match: of the names.
        images, annotations: all names.
        what: what the message calls the file of annotations.
        folder: what it calls the images.

    Raises:
        UserError: shows names of both sides.
    """
    if match.listed:
        return
    if not annotations:
        raise UserError(f"{what} lists no image; name the annotations of {folder}")
    if match.doubtful:
        name, image = match.doubtful[0]
        raise UserError(
            f"{what}: each of its names fits several images of {folder}, or several names fit one image, such as "
            f"{name} and {image}; give images relative paths that differ, and the same ones in the annotations"
        )
    raise UserError(
        f"{what}: none of its {len(annotations)} names is an image of {folder}; it has {_some(annotations)}, and the folder "
        f"{_some(images)}; name the annotations of these images, or the folder of its images"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _as_they_are(images: Sequence[str], names: dict[str, None]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Annotation by image, and doubtful pairs, among names that are spelled alike."""
    claims: dict[str, list[str]] = defaultdict(list)
    for image in images:
        name = next((name for name in spellings(image) if name in names), None)
        if name is not None:
            claims[name].append(image)
    listed, doubtful = {}, []
    for name, claiming in claims.items():
        if len(claiming) == 1 or name in claiming:
            listed[name if name in claiming else claiming[0]] = name
        else:
            doubtful.append((name, claiming[0]))
    return listed, doubtful


def _by_their_ends(images: Sequence[str], names: Sequence[str]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs (annotation, image) of names that share their last parts, and doubtful ones."""
    by_file: dict[str, list[str]] = defaultdict(list)
    for image in images if names else ():
        by_file[image.rsplit("/", 1)[-1]].append(image)
    wanting: dict[str, list[tuple[int, str]]] = defaultdict(list)
    doubtful = []
    for name in names:
        parts = _parts(name)
        fitting = [(_shared(parts, image), image) for image in by_file.get(parts[-1] if parts else "", ())]
        most = max(fitting, default=(0, ""))[0]
        best = [image for shared, image in fitting if shared == most]
        if len(best) == 1:
            wanting[best[0]].append((most, name))
        elif best:
            doubtful.append((name, best[0]))
    pairs = []
    for image, fitting in wanting.items():
        most = max(shared for shared, _ in fitting)
        best = [name for shared, name in fitting if shared == most]
        if len(best) == 1:
            pairs.append((best[0], image))
        doubtful += [(name, image) for _, name in fitting if len(best) > 1 or name != best[0]]
    return pairs, doubtful


def _parts(name: str) -> list[str]:
    """The folders and the file of a path, written with slashes or backslashes."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _shared(parts: Sequence[str], image: str) -> int:
    """How many parts, from the end, two names have in common."""
    count = 0
    for own, other in zip(reversed(parts), reversed(image.split("/"))):
        if own != other:
            break
        count += 1
    return count
