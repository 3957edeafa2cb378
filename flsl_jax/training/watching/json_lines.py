"""metrics.jsonl as a run writes it: complete lines only, whatever the disk does, and nothing foreign left in it."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from flsl_jax.errors import UserError, reason
from flsl_jax.workdir import split_metrics

log = logging.getLogger(__name__)

# Beside metrics.jsonl: lines of it that are not metrics.
_FOREIGN = "metrics.jsonl.damaged"
# Seconds between two tries to write what a full disk did not take.
_PAUSE = 30.0


class JsonLines:
    """One object a line: `step`, then the values. Lines after `start_step`, left by a killed run, are dropped first.

    Lines that are not metrics are moved to a file beside it. What cannot be written is kept and written later. Timing values
    (`images_per_sec`, `data_wait_share`, `mfu`) aside, a run that was killed and continued leaves the same file as one that
    was not.
    """

    def __init__(self, path: Path, *, start_step: int) -> None:
        """Opens the file.

        Raises:
            UserError: it cannot be written.
        """
        self._path, self._waiting, self._next_try = path, b"", 0.0
        temporary = path.with_suffix(".jsonl.tmp")
        try:
            lines, foreign = split_metrics(path)
            if foreign:
                with (path.parent / _FOREIGN).open("ab") as file:
                    file.write(b"".join(line + b"\n" for line in foreign))
                log.warning("%s had %d lines that are no metrics; moved to %s", path, len(foreign), _FOREIGN)
            kept = [line for line in lines if line["step"] <= start_step and start_step > 0]
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(temporary, path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise UserError(f"{path} cannot be written ({reason(error)}); make room or mend the folder") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line."""
        finite = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._waiting += (json.dumps({"step": step, **finite}) + "\n").encode()
        if time.monotonic() >= self._next_try:
            self._write_waiting()

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        self._write_waiting()
        if self._waiting:
            log.warning(
                "%s lacks its last %d lines: the disk did not take them", self._path, self._waiting.count(b"\n")
            )
        self._file.close()

    def _write_waiting(self) -> None:
        try:
            if self._waiting and not self._path.exists() and self._path.parent.is_dir():  # the folder was made anew
                self._file.close()
                self._file = self._path.open("ab", buffering=0)
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            log.warning("%s cannot be written (%s); its lines are kept and written later", self._path, reason(error))
            self._next_try = time.monotonic() + _PAUSE
