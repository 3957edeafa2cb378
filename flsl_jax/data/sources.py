"""Random access to images."""

import dataclasses

import numpy as np

from flsl_jax.data.boxes import Boxes


@dataclasses.dataclass(frozen=True)
class Record:
    """One image: encoded `bytes` or decoded uint8 [H, W, 3] RGB, with its name and, where known, label and boxes."""

    image: bytes | np.ndarray
    name: str
    label: int | None = None
    boxes: Boxes | None = None
