"""Bounding boxes with labels."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Boxes of one image: `xyxy` float32 [M, 4] in pixels of the upright original image, `labels` int64 [M]."""

    xyxy: np.ndarray
    labels: np.ndarray
