"""Training samples that are a function of the seed and the sample's number: which image, and how it is cut and changed."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from flsl_jax.data.loading.order import GlobalOrder
from flsl_jax.data.truth.mask_classes import IGNORED
from flsl_jax.data.truth.masks import MaskedSource
from flsl_jax.transfer.config import AugmentConfig
from flsl_jax.transfer.data.objects import ObjectImages

# An image, float32 [3, H, W] in levels from 0 to 1, and what is to be learned of it.
Sample = tuple[torch.Tensor, Any]


class TrainSamples(Dataset[Sample]):
    """Sample s of a run: image s mod B of batch s // B, in the order of pretraining, augmented by random numbers of its own.

    Args:
        source: images with objects, or with a class for each pixel.
        batch_size: B, over all processes.
        seed: of the run.
        augment: sizes and augmentations.
        fill: levels from 0 to 1, red, green and blue, beyond the edges of an image that is smaller than the crop.
        masks: whether masks of objects are wanted.
    """

    def __init__(
        self,
        source: ObjectImages | MaskedSource,
        *,
        batch_size: int,
        seed: int,
        augment: AugmentConfig,
        fill: tuple[float, ...],
        masks: bool = False,
    ) -> None:
        self._source, self._augment, self._masks = source, augment, masks
        self._fill = tuple(round(255 * level) for level in fill)
        self._order = GlobalOrder(num_records=len(source), batch_size=batch_size, seed=seed)

    def __getitem__(self, sample: int) -> Sample:
        step, place = divmod(sample, self._order.batch_size)
        record = int(self._order.records(step, place, place + 1)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed(self._order.seed, sample))
            if isinstance(self._source, ObjectImages):
                return _object_sample(self._source, record, augment=self._augment, fill=self._fill, masks=self._masks)
            return _pixel_sample(self._source, record, augment=self._augment, fill=self._fill)


def random_seed(*numbers: int) -> int:
    """A seed for torch, mixed of a few numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def batches(
    samples: TrainSamples, *, batch_size: int, start: int, end: int, rank: int, ranks: int, workers: int
) -> Iterator[list[Sample]]:
    """This process's share of the batches of steps `start` … `end` - 1."""
    share = batch_size // ranks
    numbers = [[step * batch_size + rank * share + place for place in range(share)] for step in range(start, end)]
    context = "spawn" if workers else None  # a process in which JAX has started must not be forked
    loader = DataLoader(
        samples, batch_sampler=_Listed(numbers), num_workers=workers, collate_fn=list, multiprocessing_context=context
    )
    return iter(loader)


class _Listed(Sampler[list[int]]):
    def __init__(self, numbers: Sequence[list[int]]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def as_levels(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] to float32 [3, H, W] from 0 to 1."""
    return torch.tensor(image).permute(2, 0, 1).float() / 255


def _object_sample(
    source: ObjectImages, index: int, *, augment: AugmentConfig, fill: tuple[int, ...], masks: bool
) -> Sample:
    image = source.image(index)
    objects = source.objects(index, masks=masks)
    if source.fill_ignored:
        image = _filled(image, source.boxes(index, crowds=True), objects.xyxy, fill=fill)
    size = image.shape[:2]
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(objects.xyxy, format="XYXY", canvas_size=size),  # pyright: ignore
        "labels": torch.from_numpy(objects.labels),
    }
    if masks:
        target["masks"] = tv_tensors.Mask(torch.tensor(objects.masks))
    pixels, target = _object_transform(augment, fill)(tv_tensors.Image(torch.tensor(image).permute(2, 0, 1)), target)
    plain = {name: torch.as_tensor(value).as_subclass(torch.Tensor) for name, value in target.items()}
    return pixels.as_subclass(torch.Tensor).float() / 255, plain


def _filled(image: np.ndarray, ignored: np.ndarray, kept: np.ndarray, *, fill: tuple[int, ...]) -> np.ndarray:
    """The image with the ignored areas in one colour, but for what the kept boxes show; boxes grow to whole pixels."""
    hidden = np.zeros(image.shape[:2], bool)
    for boxes, hides in ((ignored, True), (kept, False)):
        lows, highs = np.floor(boxes[:, :2]).clip(0).astype(int), np.ceil(boxes[:, 2:]).clip(0).astype(int)
        for (left, top), (right, bottom) in zip(lows.tolist(), highs.tolist(), strict=True):
            hidden[top:bottom, left:right] = hides
    return np.where(hidden[..., None], np.array(fill, np.uint8), image)


@functools.cache
def _object_transform(augment: AugmentConfig, fill: tuple[int, ...]) -> v2.Transform:
    """Mirroring, DETR's cut and large-scale jitter; sizes are drawn by the detector itself."""
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(augment.flip)]
    if augment.cut:
        steps.append(v2.RandomApply([_Cut(max_size=augment.max_size)], p=augment.cut))
    if augment.jitter != (1.0, 1.0):
        side = augment.sizes[-1]
        steps += [
            v2.ScaleJitter((side, side), scale_range=augment.jitter, antialias=True),
            _Crop(side, fill=fill, mask_fill=0),
        ]
    return v2.Compose([*steps, v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1.0)])


class _Crop(v2.Transform):
    """A random square; an image that is smaller is first filled up at its right and bottom, and so are its masks."""

    def __init__(self, side: int, *, fill: tuple[int, ...], mask_fill: int) -> None:
        super().__init__()
        self._side, self._fill = side, {tv_tensors.Image: list(fill), tv_tensors.Mask: mask_fill}
        self._cut = v2.RandomCrop((side, side))

    def forward(self, *inputs: Any) -> Any:
        """Images, boxes and masks, cut alike."""
        height, width = v2.functional.get_size(inputs[0])
        bottom, right = max(0, self._side - height), max(0, self._side - width)
        return self._cut(*v2.Pad([0, 0, right, bottom], fill=self._fill)(*inputs))


class _Cut(v2.Transform):
    """A rectangle whose sides have 384 to 600 pixels, from the image at a short side of 400, 500 or 600 (DETR, SelfPatch)."""

    def __init__(self, *, max_size: int) -> None:
        super().__init__()
        self._resize = v2.RandomShortestSize(min_size=[400, 500, 600], max_size=max_size, antialias=True)

    def forward(self, *inputs: Any) -> Any:
        """Images, boxes and masks, resized and cut alike."""
        resized = self._resize(*inputs)
        sides = [int(torch.randint(min(384, n), min(600, n) + 1, ())) for n in v2.functional.get_size(resized[0])]
        return v2.RandomCrop(sides)(*resized)


def _pixel_sample(source: MaskedSource, index: int, *, augment: AugmentConfig, fill: tuple[int, ...]) -> Sample:
    record = source[index]
    image = tv_tensors.Image(torch.tensor(record.image).permute(2, 0, 1))
    mask = tv_tensors.Mask(torch.tensor(record.mask).long())
    low, high = augment.ratio
    factor = float(torch.empty(1).uniform_(low, high))
    image = v2.functional.resize(image, _size(record.mask.shape, augment, factor), antialias=True)
    mask = v2.functional.resize(mask, list(image.shape[1:]), interpolation=v2.InterpolationMode.NEAREST)
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(augment.flip)]
    if augment.crop:
        steps.append(_Crop(augment.crop, fill=fill, mask_fill=IGNORED))
    if augment.photometric:
        steps.append(v2.RandomPhotometricDistort(p=augment.photometric))
    image, mask = v2.Compose(steps)(image, mask)
    return image.as_subclass(torch.Tensor).float() / 255, mask.as_subclass(torch.Tensor)


def _size(shape: tuple[int, ...], augment: AugmentConfig, factor: float) -> list[int]:
    """Height and width whose short side is `sizes[-1]`, or less if the long side became too long, times a factor."""
    short, long = min(shape), max(shape)
    scale = factor * min(augment.sizes[-1] / short, augment.max_size / long)
    return [max(1, round(side * scale)) for side in shape]


def measured_size(shape: tuple[int, ...], augment: AugmentConfig) -> list[int]:
    """Height and width at which an image of this shape is measured by Semantic FPN."""
    return _size(shape, augment, 1.0)
