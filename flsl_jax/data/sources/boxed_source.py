"""A data set with boxes from a separate file."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from flsl_jax.data.box_names import NameMatch, match_names, require_some, spellings
from flsl_jax.data.boxes import Annotations, Boxes, read_boxes
from flsl_jax.data.records import Record, Source
from flsl_jax.errors import UserError, one_line

log = logging.getLogger(__name__)

# From this share of names without an image on, the line about them is a warning that stands out.
_ALARMING = 0.5


@runtime_checkable
class _Named(Protocol):
    """A source that knows the names of its images without reading them."""

    def path(self, index: int) -> str: ...


class BoxedSource:
    """Another source with boxes from a separate file.

    Of a folder, each image is matched with a name in the file as `match_names` does it. A record of another source is looked
    up by its whole name, its last part, and that without suffix. A record that the file does not list has no boxes.
    `class_names` are the classes of the boxes. A record keeps its label, in their numbering, if its class has the same name
    there. `match` says which names belong together; None where they are looked up one by one. `summary`: in a line, what was
    matched, once `with_boxes` has said so. `warnings`: what makes numbers of these boxes doubtful, each a line.
    """

    def __init__(self, source: Source, boxes: Mapping[str, Boxes], *, class_names: tuple[str, ...]) -> None:
        self.name, self.class_names = source.name, class_names
        self._source, self._labels = source, {name: label for label, name in enumerate(class_names)}
        self.match: NameMatch | None = None
        self.summary = ""
        self.warnings: tuple[str, ...] = ()
        self._boxes = dict(boxes)
        if isinstance(source, _Named):
            self.match = match_names(_paths(source), boxes)
            self._boxes = {image: boxes[name] for image, name in self.match.listed.items()}

    @property
    def digest(self) -> str:
        """Of the images, without the boxes."""
        return self._source.digest

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self.annotate(self._source[index])

    def annotate(self, record: Record) -> Record:
        """The record with its boxes, and with its label in the numbering of the boxes' classes."""
        label = None if record.label is None else self._labels.get(self._source.class_names[record.label])
        keys = spellings(record.name) if self.match is None else (record.name,)
        boxes = next((self._boxes[key] for key in keys if key in self._boxes), None)
        return dataclasses.replace(record, label=label, boxes=boxes)

    @property
    def num_boxed(self) -> int:
        """Of a folder, the images that have a box."""
        return sum(boxes.labels.size > 0 for boxes in self._boxes.values())


def with_boxes(source: Source, path: Path) -> BoxedSource:
    """The source with the boxes of a COCO JSON file or a folder of VOC XML files; the log says what was matched.

    Raises:
        UserError: `path` cannot be read or holds no boxes, or none of its names is an image of the source.
    """
    annotations = read_boxes(path)
    if not any(boxes.labels.size for boxes in annotations.boxes.values()):
        left_out = _left_out(annotations)
        raise UserError(f"boxes {path}: it has no box{left_out and f', only {left_out}'}; name a file that has boxes")
    boxed = BoxedSource(source, annotations.boxes, class_names=annotations.class_names)
    if boxed.match is not None and isinstance(source, _Named):
        names = list(annotations.boxes)
        require_some(boxed.match, images=_paths(source), annotations=names, what=f"boxes {path}", folder=source.name)
        _report(boxed, boxed.match, annotations, path=path)
    return boxed


def _report(boxed: BoxedSource, match: NameMatch, annotations: Annotations, *, path: Path) -> None:
    """Says how many images have boxes, which names have no image, and which ones were matched though spelled otherwise."""
    names, missing = len(annotations.boxes), match.missing
    parts = [f"boxes for {boxed.num_boxed} of {len(boxed)} images"]
    if missing:
        parts.append(f"{len(missing)} of {names} names not in {boxed.name}, such as {missing[0]}")
    if match.respelled:
        name, image = match.respelled[0]
        parts.append(f"{len(match.respelled)} names matched by their ends, such as {name} with {image}")
    if match.doubtful:
        name, image = match.doubtful[0]
        parts.append(
            f"{len(match.doubtful)} names left out because they fit more than one image, such as {name} with {image}"
        )
    if left_out := _left_out(annotations):
        parts.append(f"left out {left_out}")
    line = boxed.summary = one_line(f"boxes {path}: {'; '.join(parts)}")
    unmatched = len(missing) + len(match.doubtful)
    if unmatched < _ALARMING * names:
        log.info(line)
        return
    boxed.warnings = (
        line,
        one_line(
            f"{unmatched} of the {names} names in {path} have no image here, so that numbers are of the others alone; is it "
            "the file of these images, all of them?"
        ),
    )
    for warning in boxed.warnings:
        log.warning("WARNING: %s", warning)


def _left_out(annotations: Annotations) -> str:
    """Which annotations are no boxes to use; empty if there are none."""
    counts = {"crowds": annotations.crowds, "boxes without width or height": annotations.empty}
    return " and ".join(f"{count} {what}" for what, count in counts.items() if count)


def _paths(source: Source) -> list[str]:
    """The names of the images of a source that is `_Named`."""
    assert isinstance(source, _Named)
    return [source.path(index) for index in range(len(source))]
