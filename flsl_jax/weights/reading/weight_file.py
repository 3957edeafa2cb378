"""What is read of a weight file, before anything is understood of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        path: the file itself, or the index of several, even if a folder was given.
        tensors: name -> array, nested dictionaries joined with dots (`teacher.backbone.norm.weight`); float32, float16,
            bfloat16 (of ml_dtypes) or whatever the file has.
        num_heads: attention heads, where the arrays themselves show them.
        flax: whether the names are Flax's, as in the files of Google's vision transformers.
        others: top-level entries that hold no weights (epoch, args, optimizer).
        metadata: the texts in the header of a safetensors file, or under `meta` in a torch file; empty if there are none.
        config: the `config.json` of timm or transformers beside the file; empty if there is none.
        preprocessor: transformers' `preprocessor_config.json` beside the file; empty if there is none.
    """

    path: Path
    tensors: Mapping[str, np.ndarray]
    num_heads: int | None = None
    flax: bool = False
    others: tuple[str, ...] = ()
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessor: Mapping[str, Any] = dataclasses.field(default_factory=dict)
