"""What all kinds of data sets share: records, random access to them, and one check of the index."""

import dataclasses
import hashlib
import operator
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from flsl_jax.data.boxes import Boxes


@dataclasses.dataclass(frozen=True)
class Record:
    """One image: encoded `bytes` or decoded uint8 [H, W, 3] RGB, with its name and, where known, label and boxes.

    `page`: which image of a file that holds several, from 0.
    """

    image: bytes | np.ndarray
    name: str
    label: int | None = None
    boxes: Boxes | None = None
    page: int = 0


@runtime_checkable
class Source(Protocol):
    """A data set with random access. It must be picklable: every worker process is started with a copy.

    `name` is for messages. `class_names[label]` is the name of a label; it is empty for a data set without labels. `digest`
    stands for which records there are, in which order, and not for where they lie; a run that continues compares it.
    """

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def name_of(source: Source, index: int) -> str:
    """What messages call a record: by its path, where the source knows it without reading it."""
    path = path_of(source, index)
    return f"record {index} of {source.name}" + (f" ({path})" if path is not None else "")


def path_of(source: Source, index: int) -> str | None:
    """A record's path, where the source knows it without reading it."""
    path, inner = getattr(source, "path", None), source
    while path is None and inner is not None:  # a wrapper keeps the numbers of what it wraps
        inner = getattr(inner, "_source", None)
        path = getattr(inner, "path", None)
    return None if path is None else path(index)


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 of texts, for a source's digest; hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def checked_index(index: SupportsIndex, length: int) -> int:
    """The index, of any integer type, as an `int`.

    Raises:
        IndexError: it is not in 0 … `length` - 1. Negative indices do not count from the end.
    """
    number = operator.index(index)
    if not 0 <= number < length:
        raise IndexError(f"record {number} of {length}")
    return number
