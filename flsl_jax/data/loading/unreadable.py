"""What of the training images could not be read: named, counted, and the end of the run if it is too much."""

import logging
from collections.abc import Iterable
from pathlib import Path

from flsl_jax.data.loading.chunks import Replacement
from flsl_jax.errors import DataError, one_line

log = logging.getLogger(__name__)

# Each of the first so many is named in the log; from then on, only their number each time that it has doubled. So many files
# never end a run: a share of a few samples says little.
_NAMED = 20


class Damage:
    """The records that one process could not read.

    Args:
        source: the data set's name.
        on_corrupt: "fail": the first one ends the run; "replace": each is named and counted.
        max_share: of the samples that were asked for; more end the run, if they are more than 20 records too. 1: no limit.

    `records` has the reason, which names the file, of each record's number.
    """

    def __init__(self, source: str, *, on_corrupt: str, max_share: float) -> None:
        self.records: dict[int, str] = {}
        self._source, self._on_corrupt, self._max_share = source, on_corrupt, max_share
        self._samples = self._asked = 0

    def add(self, replaced: Iterable[Replacement], *, asked: int, exhausted: bool) -> None:
        """Takes what happened to a batch.

        Args:
            replaced: records that could not be read.
            asked: how many samples the batch has.
            exhausted: whether for one of them no readable record was found.

        Raises:
            DataError: the run must end.
        """
        replaced = tuple(replaced)
        self._asked += asked
        self._samples += len({item.sample for item in replaced})
        for item in replaced:
            if self._on_corrupt == "fail":
                self.records[item.record] = item.reason
                raise DataError(
                    f"record {item.record} of {self._source} cannot be read: {item.reason}; remove or repair it, or set "
                    "config.data.on_corrupt=replace"
                )
            if item.record not in self.records:
                self.records[item.record] = item.reason
                self._say(item)
        if exhausted:
            last = replaced[-1]
            tried = len([item for item in replaced if item.sample == last.sample])
            raise DataError(
                f"{self._source}: no readable record among {tried} for one sample, up to record {last.record} "
                f"({last.reason}); check that these are images"
            )
        if len(self.records) > _NAMED and self._samples > self._max_share * self._asked + _NAMED:
            first, reason = next(iter(self.records.items()))
            raise DataError(
                f"{self._source}: {self._samples} of {self._asked} images that were asked for cannot be read, more than "
                f"config.data.max_corrupt_share={self._max_share:g} allows; the first is record {first} ({reason}); "
                "repair or remove them, or raise it"
            )

    def _say(self, item: Replacement) -> None:
        count = len(self.records)
        if count <= _NAMED:
            log.warning(
                "record %d of %s cannot be read and is replaced by another (%d such records so far): %s",
                item.record,
                self._source,
                count,
                one_line(item.reason),
            )
        elif count % _NAMED == 0 and (count // _NAMED).bit_count() == 1:
            log.warning("%d records of %s cannot be read so far and are replaced", count, self._source)

    def write(self, path: Path) -> None:
        """Names the records in a file, a line each, beside those that an earlier part of the run has named; logs the first.

        Without damage, nothing is written.
        """
        if not self.records:
            return
        lines = [f"{record}\t{one_line(reason)}" for record, reason in sorted(self.records.items())]
        try:
            known = path.read_text().splitlines() if path.exists() else []
            path.write_text("".join(f"{line}\n" for line in dict.fromkeys([*known, *lines])))
            where = f"{path} names them"
        except OSError as error:
            where = f"{path} cannot be written: {error.strerror}"
        log.warning("%d images of %s could not be read; %s:", len(lines), self._source, where)
        for line in lines[:_NAMED]:
            log.warning("  record %s", line.replace("\t", ": ", 1))
        if len(lines) > _NAMED:
            log.warning("  and %d more", len(lines) - _NAMED)
