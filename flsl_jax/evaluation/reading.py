"""Images of a source, read and decoded by threads ahead of the network, in batches; kept in memory only if they are few."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, pixels_of
from flsl_jax.data.records import Record, Source
from flsl_jax.errors import UserError

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_THREADS = 8

log = logging.getLogger(__name__)

Item = tuple[np.ndarray | np.generic, ...]
Prepare = Callable[[Record, np.ndarray], Item | None]

# Records that are read and decoded ahead of the one in use.
_AHEAD = 256
# Sets of images up to this size are kept, so that a training run decodes them once for all its measurements.
_KEPT_BYTES = 2**30


class ImageStream:
    """The prepared images of a source, in the source's order, any number of times.

    Args:
        source: read from several threads.
        prepare: maps a record and its decoded uint8 [H, W, C] pixels to an item: arrays, the image first, of the same shapes
            and dtypes for every record. None leaves the record out.
        wanted: whether a record is worth decoding.
        lacking: the end of the error message where no record is left: what is missing, and what to do.
        lacks: what those have not that are left out, for the log: "no label".
        on_corrupt: "fail" refuses an image that cannot be decoded; otherwise it is left out with a warning.
        decoding: which channels are read of the files.

    `warnings` are those of the source about its boxes.

    Raises:
        UserError: no record of the source is left.
    """

    def __init__(
        self,
        source: Source,
        prepare: Prepare,
        *,
        wanted: Callable[[Record], bool],
        lacking: str,
        lacks: str,
        on_corrupt: str = "replace",
        decoding: Decoding = RGB,
    ) -> None:
        self._decoding = decoding
        self.name, self.class_names = source.name, source.class_names
        self.warnings: tuple[str, ...] = getattr(source, "warnings", ())
        self._source, self._prepare, self._wanted, self._on_corrupt = source, prepare, wanted, on_corrupt
        self._kept: list[Item] | None = None
        self._lacks, self._damaged, self._counted = lacks, set[int](), False
        if next(iter(self), None) is None:
            raise UserError(f"{source.name}: {lacking}")

    def __len__(self) -> int:
        """The number of records of the source; some of them may be left out."""
        return len(self._source)

    def labels(self, of: Callable[[Record], Iterable[int]]) -> Iterator[int]:
        """What `of` gives of one record after another; images are read but not decoded."""
        for index in range(len(self._source)):
            yield from of(self._source[index])

    def __iter__(self) -> Iterator[Item]:
        """One item after another.

        Raises:
            UserError: an image cannot be decoded and `on_corrupt` is "fail", or `prepare` refuses one.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Item] | None = []
        left_out = 0
        for item in computed_ahead(self._item, range(len(self._source)), ahead=_AHEAD):
            if item is None:
                left_out += 1
                continue
            if kept is not None:
                kept.append(item)
                kept = kept if len(kept) * item[0].nbytes <= _KEPT_BYTES else None
            yield item
        self._kept = kept
        self._report(left_out - len(self._damaged))

    def batches(self, batch_size: int) -> Iterator[list[np.ndarray]]:
        """Stacked items, `batch_size` at a time and fewer at the end; shows progress if it takes more than two seconds."""
        items = iter(tqdm(self, total=len(self), desc=self.name, unit=" images", delay=2, leave=False, disable=None))
        while batch := [item for _, item in zip(range(batch_size), items)]:
            yield [np.stack(arrays) for arrays in zip(*batch, strict=True)]

    def _report(self, count: int) -> None:
        """Says once how many images are left out; damaged ones were named before."""
        if count and not self._counted:
            log.info("%s: left out %d of %d images, which have %s", self.name, count, len(self), self._lacks)
        self._counted = True

    def _item(self, index: int) -> Item | None:
        try:
            record = self._source[index]
            if not self._wanted(record):
                return None
            pixels = pixels_of(record.image, name=record.name, decoding=self._decoding, page=record.page)
        except (DecodeError, OSError) as error:
            if self._on_corrupt == "fail":
                raise UserError(f"{self.name}: {error}; repair or remove it, or set on_corrupt to replace") from error
            self._damaged.add(index)
            log.warning("left out of the evaluation: %s", error)
            return None
        return self._prepare(record, pixels)


def computed_ahead(function: Callable[[_Key], _Value], keys: Iterable[_Key], *, ahead: int) -> Iterator[_Value]:
    """`function` of each key, in order, computed by threads up to `ahead` keys before it is asked for.

    An error of the function is raised when its key's turn comes. A caller that stops early waits only for the calls that
    have begun.
    """
    waiting: deque[Future[_Value]] = deque()
    threads = ThreadPoolExecutor(_THREADS)
    try:
        for key in keys:
            waiting.append(threads.submit(function, key))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
