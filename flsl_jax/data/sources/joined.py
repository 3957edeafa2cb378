"""Several data sets one after another as one."""

import bisect
import dataclasses
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.listing import Listing, joined
from flsl_jax.data.records import Record, Source, checked_index, digest_of


class JoinedSource:
    """The records of several sources, in order; a name begins with that of its part.

    Classes are matched by name: `class_names` has those of all parts, in the order of the first that has them where each part
    has the same ones, else sorted. A part without classes gives records without labels.

    Args:
        parts: the sources.
        names: of the parts.
        name: for messages.
        fewest_classes: with fewer classes in all, there are no labels.
    """

    def __init__(self, parts: Sequence[Source], *, names: Sequence[str], name: str, fewest_classes: int = 1) -> None:
        self.name, self._parts, self._names = name, tuple(parts), tuple(names)
        self._ends = list(accumulate(len(part) for part in parts))
        kinds = list(dict.fromkeys(part.class_names for part in parts if part.class_names))
        union = kinds[0] if len(kinds) == 1 else tuple(sorted({each for kind in kinds for each in kind}))
        self.class_names: tuple[str, ...] = union if len(union) >= fewest_classes else ()
        self._numbers = {each: number for number, each in enumerate(self.class_names)}
        listings = [getattr(part, "listing", None) for part in parts]
        self.listing: Listing | None = None
        if all(listing is not None for listing in listings):
            self.listing = joined([listing for listing in listings if listing is not None], names=names)

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def digest(self) -> str:
        """Of the parts' digests, without their names, which say where they lie."""
        return digest_of("joined", *(part.digest for part in self._parts))

    def label(self, index: int) -> int | None:
        """A record's label, where its part knows it without reading it."""
        part, inner, _ = self._place(index)
        known = getattr(part, "label", None)
        return None if known is None else self._label(part, known(inner))

    def __getitem__(self, index: int) -> Record:
        part, inner, name = self._place(checked_index(index, len(self)))
        record = part[inner]
        boxes = record.boxes
        if boxes is not None and part.class_names != self.class_names:
            numbers = np.array([self._numbers[each] for each in part.class_names], np.int64)
            boxes = Boxes(xyxy=boxes.xyxy, labels=numbers[boxes.labels])
        return dataclasses.replace(
            record, name=f"{name}/{record.name}", label=self._label(part, record.label), boxes=boxes
        )

    def _label(self, part: Source, label: int | None) -> int | None:
        return None if label is None or not part.class_names else self._numbers.get(part.class_names[label])

    def _place(self, index: int) -> tuple[Source, int, str]:
        """The part that has a record, the record's number in it, and the part's name."""
        number = bisect.bisect_right(self._ends, index)
        return self._parts[number], index - (self._ends[number - 1] if number else 0), self._names[number]


class JoinedFiles(JoinedSource):
    """Joined sources that all know the paths of their records without reading them."""

    def size(self, index: int) -> int:
        """Of the record's file in bytes, or 0 where it is not a file of its own."""
        part, inner, _ = self._place(index)
        size = getattr(part, "size", None)
        return 0 if size is None else size(inner)

    def file(self, index: int) -> str | None:
        """Where the record's file is, or None where it is not a file of its own."""
        part, inner, _ = self._place(index)
        file = getattr(part, "file", None)
        return None if file is None else file(inner)

    def path(self, index: int) -> str:
        """The part's name and the record's path in it."""
        part, inner, name = self._place(index)
        path = getattr(part, "path")  # noqa: B009
        return f"{name}/{path(inner)}"


def join(parts: Sequence[Source], *, names: Sequence[str], name: str, fewest_classes: int = 1) -> Source:
    """One source of several, as `JoinedSource` takes them; a single one stays as it is."""
    if len(parts) == 1:
        return parts[0]
    kind = JoinedFiles if all(hasattr(part, "path") for part in parts) else JoinedSource
    return kind(parts, names=names, name=name, fewest_classes=fewest_classes)
