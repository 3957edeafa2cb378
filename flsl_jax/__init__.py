"""FLSL in JAX: feature-level self-supervised pretraining of vision transformers for dense prediction."""

from __future__ import annotations

import typing

from flsl_jax._version import __version__ as __version__

if typing.TYPE_CHECKING:
    import os
    from typing import Literal

    from flsl_jax.models import ViT


def load(
    path: str | os.PathLike[str],
    *,
    network: Literal["teacher", "student"] = "teacher",
    source: str | None = None,
    num_heads: int | None = None,
) -> ViT:
    """The trained backbone of a run, or one from elsewhere; what was left and assumed of a file is logged.

    Args:
        path: a run's workdir (its newest committed checkpoint is taken), one checkpoint, `WORKDIR/checkpoints/STEP`, a
            weight file (`.safetensors`, `.pth`, `.pt`, `.bin`), or a folder with config.json and model.safetensors, as
            timm and transformers save it. Whose files are read is in docs/weights.md.
        network: the teacher, which is the better one as a rule, or the student, where there are both.
        source: whose layout a weight file has, where its names alone would be taken for another's.
        num_heads: attention heads of a weight file, by default what its metadata or config says, else D / 64.

    Returns:
        A model: `model(images)` maps float images [B, H, W, 3], RGB, any H and W divisible by the patch size, to float32
        tokens [B, H / p, W / p, D]; class token and registers take part and are left out of the result. A run's images are
        normalised with mean (0.485, 0.456, 0.406) and standard deviation (0.229, 0.224, 0.225); those of a file from
        elsewhere may have others (`flsl_jax.weights.load.load_network` has them).

    Raises:
        UserError: nothing that can be loaded is there.
    """
    from flsl_jax.weights.load import load_model

    return load_model(path, network=network, source=source, num_heads=num_heads)
