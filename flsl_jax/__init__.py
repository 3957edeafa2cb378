"""FLSL in JAX: feature-level self-supervised pretraining of vision transformers for dense prediction."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    import os
    from typing import Literal

    from flsl_jax.models import ViT

__version__ = "0.1.0"


def load(path: str | os.PathLike[str], *, network: Literal["teacher", "student"] = "teacher") -> ViT:
    """The trained backbone of a run.

    Args:
        path: a run's workdir (its newest committed checkpoint is taken) or one checkpoint, `WORKDIR/checkpoints/STEP`.
        network: the teacher, which is the better one as a rule, or the student.

    Returns:
        A model: `model(images)` maps float images [B, H, W, 3], RGB, normalised with mean (0.485, 0.456, 0.406) and
        standard deviation (0.229, 0.224, 0.225), any H and W divisible by the patch size, to float32 tokens
        [B, H / p, W / p, D].

    Raises:
        UserError: nothing that can be loaded is there.
    """
    from flsl_jax.weights.load import load_model

    return load_model(path, network=network)
