"""Encoders of which the right answer of a segmentation task is known: one that sees the masks, and one that sees nothing."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from flsl_jax.config import MaskedSourceConfig
from flsl_jax.data.images.decode import RGB
from flsl_jax.data.truth.mask_fit import MaskFit, class_shares
from flsl_jax.data.truth.masks import open_masked
from flsl_jax.evaluation.miou import confusion_matrix, mask_scores
from flsl_jax.evaluation.upsampling import upsampled_classes

PATCH, SIZE = 8, 64


def scenes(count: int, *, split: str, size: int = SIZE, **keys) -> MaskedSourceConfig:
    """Scenes with masks."""
    return MaskedSourceConfig(name="scenes", count=count, scene_size=size, split=split, **keys)


def stripes(root: Path, count: int) -> MaskedSourceConfig:
    """Images of upright stripes, two patches wide, of one colour for each of four classes: no edge is lost between patches."""
    colors = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200], [0, 0, 0]], np.uint8)
    for number in range(count):
        classes = np.random.default_rng(number).permutation(SIZE // (2 * PATCH))
        mask = np.broadcast_to(np.repeat(classes, 2 * PATCH), (SIZE, SIZE)).astype(np.uint8)
        image = colors[mask]
        for folder, pixels in (("images", image), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{number}.png")
    return MaskedSourceConfig(images=str(root / "images"), masks=str(root / "masks"))


def best_miou(config: MaskedSourceConfig, *, how: str = "square", size: int = SIZE) -> float:
    """mIoU of the true class shares of every patch, interpolated: what no feature of these patches can be asked to beat."""
    source, fit = open_masked(config), MaskFit(how=how, size=size, patch_size=PATCH)
    confusion = 0
    for record in (source[index] for index in range(len(source))):
        mask = fit.mask(record.mask)
        shares = class_shares(mask, patch_size=PATCH, num_classes=source.num_classes)
        classes = upsampled_classes(shares, height=mask.shape[0], width=mask.shape[1], mode="bilinear")
        confusion = confusion + confusion_matrix(mask, classes, num_classes=source.num_classes)
    return mask_scores(confusion).miou


class PerfectEncoder:
    """Tokens are the class shares of their patch, of images that these sources have."""

    name, patch_size, image_size, blank, inv_temp = "perfect", PATCH, SIZE, (0.0, 0.0, 0.0), None
    decoding = RGB

    def __init__(self, *configs: MaskedSourceConfig, how: str = "square", size: int = SIZE) -> None:
        fit = MaskFit(how=how, size=size, patch_size=PATCH)
        self._tokens = {}
        for source in map(open_masked, configs):
            for record in (source[index] for index in range(len(source))):
                shares = class_shares(fit.mask(record.mask), patch_size=PATCH, num_classes=source.num_classes)
                self._tokens[fit.image(record.image).tobytes()] = shares

    def tokens(self, images):
        return np.stack([self._tokens[np.asarray(image).tobytes()] for image in images])


class NoiseEncoder:
    """Tokens say nothing; the same image has the same ones."""

    name, patch_size, image_size, blank, inv_temp = "noise", PATCH, SIZE, (0.0, 0.0, 0.0), None
    decoding = RGB

    def tokens(self, images):
        grid = (images.shape[1] // PATCH, images.shape[2] // PATCH)
        draws = [np.random.default_rng(zlib.crc32(np.asarray(image).tobytes())) for image in images]
        return np.stack([rng.standard_normal((*grid, 8), np.float32) for rng in draws])
