"""What the last measurement of a run found, kept in its workdir: for the report, and for whoever wants to look closer."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.errors import UserError

RESULT_FILE, DETECTIONS_FILE, PIXELS_FILE = "result.json", "detections.json", "pixels.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """The metrics from 0 to 1, and what they were made of.

    `detections`: of a detector, in COCO's results format. `pixels`: of a segmenter, as `pixels.json` has them: "confusion",
    pixels by true class (rows) and by predicted one, in the order of the classes, and "images", a list of "name", "miou"
    and "aacc" of each. None of the other kind.
    """

    metrics: Mapping[str, float]
    detections: Sequence[dict[str, Any]] | None = None
    pixels: Mapping[str, Any] | None = None

    @property
    def confusion(self) -> np.ndarray:
        """Of a segmenter: int64 [K, K]."""
        assert self.pixels is not None
        return np.array(self.pixels["confusion"], np.int64)

    def save(self, workdir: Path) -> None:
        """Writes `detections.json` or `pixels.json`, which replaces that of the measurement before.

        Raises:
            UserError: it cannot be written.
        """
        if self.detections is not None:
            write_json(workdir / DETECTIONS_FILE, self.detections)
        if self.pixels is not None:
            write_json(workdir / PIXELS_FILE, self.pixels)


def read_measurement(workdir: Path, *, step: int) -> Measurement | None:
    """The last measurement of a run that has ended at `step`; None if it has not, or if a file of it is gone or damaged."""
    try:
        result = json.loads((workdir / RESULT_FILE).read_text(encoding="utf-8"))
        if result["step"] != step:
            return None
        if (workdir / PIXELS_FILE).exists():
            pixels = json.loads((workdir / PIXELS_FILE).read_text(encoding="utf-8"))
            return Measurement(metrics=result["metrics"], pixels=pixels)
        detections = json.loads((workdir / DETECTIONS_FILE).read_text(encoding="utf-8"))
        return Measurement(metrics=result["metrics"], detections=detections) if isinstance(detections, list) else None
    except (OSError, ValueError, KeyError):
        return None


def write_json(path: Path, values: Any, *, indent: int | None = None) -> None:
    """Writes a JSON file, whole or not at all; its folder is made if it does not exist.

    Raises:
        UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(values, indent=indent) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written ({error.strerror}); name a --workdir that can") from error
