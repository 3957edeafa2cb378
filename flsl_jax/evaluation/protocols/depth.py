"""Monocular depth by one linear layer on frozen tokens (DINOv2's linear protocol, as on NYUv2).

What is computed, and where it differs from the public code: docs/protocols.md, "Depth".
"""

import numpy as np

from flsl_jax.config import DepthConfig
from flsl_jax.data.images.decode import RGB, Decoding
from flsl_jax.data.truth.depths import DepthSource, open_depths
from flsl_jax.errors import UserError
from flsl_jax.evaluation.depth_layer import TrainDepths, train_layer
from flsl_jax.evaluation.depth_metrics import depth_scores, fits_crop, judged_mask, mean_scores
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.meaning import judged_depths, require_depths
from flsl_jax.evaluation.task import Scores, Task


def evaluate(
    encoder: Encoder,
    settings: DepthConfig,
    *,
    batch_size: int,
    data: tuple[DepthSource, DepthSource] | None = None,
) -> Scores:
    """Depths of `val` by the layer trained on `train`.

    Args:
        encoder: its tokens are what the layer sees.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Returns:
        `rmse`, `absrel`, `log10`, `delta1`, `delta2`, `delta3`: means over the images; see `depth_scores`. The rows are the
        layer and the mean depth of `train`, which knows nothing of an image.

    Raises:
        UserError: as `open_data`.
    """
    train, val = data or open_data(settings, **as_trained(encoder))
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    examples = TrainDepths(train, encoder, fit, settings=settings, batch_size=batch_size)
    layer = train_layer(examples, settings, title=encoder.name)
    scores: dict[str, list[dict[str, float]]] = {"linear layer": [], "mean depth of train": []}
    counts: list[tuple[int, int]] = []
    for item in masked_tokens(val, encoder.tokens, fit, batch_size=batch_size, title=f"{encoder.name}, val"):
        truth, (height, width) = item.judged, item.judged.shape
        judged = judged_mask(truth, low=settings.min_depth, high=settings.max_depth, crop=settings.crop)
        counts.append((int(judged.sum()), truth.size))
        if judged.any():
            found = layer.predict(item.tokens, height=height, width=width)[judged]
            constant = np.full(found.shape, examples.mean_depth)
            for own, depths in zip(scores.values(), (found, constant)):
                own.append(depth_scores(truth[judged], depths))
    means = {name: mean_scores(own) for name, own in scores.items()}
    judged = judged_depths(val, counts)
    return Scores(
        metrics=means["linear layer"],
        rows=[{"method": name, **own} for name, own in means.items()],
        images=len(train) + len(val),
        judged=judged.facts,
        warnings=judged.warnings,
    )


def open_data(
    settings: DepthConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> tuple[DepthSource, DepthSource]:
    """Train and val.

    Raises:
        UserError: a source cannot be opened or has no depth that counts, the depths of `val` are all the same, or the size is
            not a multiple of the patch.
    """
    make_fit(settings, patch_size=patch_size, image_size=image_size)
    train, val = open_depths(settings.train, decoding=decoding), open_depths(settings.val, decoding=decoding)
    for size in val.sizes:
        if not fits_crop(size, settings.crop):
            raise UserError(
                f"{val.name}: an image is {size[1]}×{size[0]}, and depth.crop=eigen is of NYUv2's 640×480; set depth.crop=none"
            )
    low, high = settings.min_depth, settings.max_depth
    require_depths(train, low=low, high=high, crop="none", key="depth.train")
    require_depths(val, low=low, high=high, crop=settings.crop, key="depth.val", various=True)
    return train, val


TASK = Task(
    name="depth",
    settings=DepthConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Depth: how well does one linear layer read how far away things are from the tokens?",
    needs="images with depth maps to train (train) and to judge (val): a folder of 16-bit PNG, .npy or .npz files, scenes",
)
