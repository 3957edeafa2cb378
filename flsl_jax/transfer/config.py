"""One fine-tuning run as typed, frozen dataclasses; `configs/transfer/` has the files that fill them. Imports no torch."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from flsl_jax.config import MaskedSourceConfig, parse
from flsl_jax.config.parsing import require
from flsl_jax.config.ranges import Probability, Range, Seed, check_ranges
from flsl_jax.config.saved import read_saved_values

_NO_MASKS = MaskedSourceConfig()

# Which detections lie in an ignored area; `DetectionSourceConfig.ignored_rule` says what they mean.
IgnoredRule = Literal["inside", "center", "half"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What is put on the backbone.

    Attributes:
        kind: "faster_rcnn" for boxes, "mask_rcnn" for boxes with masks, "semantic_fpn" for a class of each pixel.
        pyramid: "patch" is SelfPatch's, from four blocks; "flat" leaves their maps at the patches' scale, for Semantic FPN
            alone; "simple" is ViTDet's, from the last block, with ViTDet's heads.
        channels: of the pyramid's maps.
        blocks: numbers of the blocks that the pyramid is made of, from 0; empty: four at equal distances, or the last.
        roi_samples: proposals of an image that a detector's heads learn from, up to a quarter of them objects; fewer take less
            time and memory.
        drop_path: how often the last block's branches are left out in training; earlier ones in proportion to their depth.
        window: tokens along the side of a window of attention; 0: attention over the whole image.
        global_blocks: blocks that attend over the whole image in spite of `window`.
        relative_grid: tokens along the side of the image that decomposed relative positions are made for; 0: none.
        checkpointing: computes blocks again in the backward pass instead of keeping them: slower, in less memory.
    """

    kind: Literal["faster_rcnn", "mask_rcnn", "semantic_fpn"] = "faster_rcnn"
    pyramid: Literal["patch", "flat", "simple"] = "patch"
    channels: Annotated[int, Range(1, unit="channels")] = 256
    blocks: Annotated[tuple[int, ...], Range(0, unit="blocks")] = ()
    roi_samples: Annotated[int, Range(1, unit="proposals")] = 512
    drop_path: Probability = 0.0
    window: Annotated[int, Range(0, unit="tokens; 0: the whole image")] = 0
    global_blocks: Annotated[tuple[int, ...], Range(0, unit="blocks")] = ()
    relative_grid: Annotated[int, Range(0, unit="tokens; 0: none")] = 0
    checkpointing: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionSourceConfig:
    """Images with boxes, and with masks of the objects where a Mask R-CNN is trained.

    Attributes:
        name: "coco" (a folder of images and a COCO JSON file), "uavdt" (its folders of frames and its text files; all vehicles
            are one class) or "scenes" (embedded synthetic images).
        root: folder of the images; of UAVDT's clips, such as UAV-benchmark-M.
        annotations: COCO JSON file of their boxes, and of polygons or RLE masks; folder of UAVDT's text files.
        split: of the scenes: "train", "val" or "test"; of UAVDT: its 30 clips to "train" on, or its 20 to "test" on.
        clips: of UAVDT, by their names such as M0101; empty: those of `split`.
        ignored_rule: which detections UAVDT's AP leaves out: those whose box lies "inside" an ignored area with all sides, as
            its toolkit does, those with their "center" in one, or those with "half" their area or more in one.
        fill_ignored: whether UAVDT's ignored areas are painted over in training, but for the vehicles in them; else they
            count as background.
        count: scenes.
        scene_size: height and width of a scene in pixels.
        limit: keeps the first images only; 0: all.
    """

    name: Literal["coco", "uavdt", "scenes"] = "coco"
    root: str = ""
    annotations: str = ""
    split: str = "train"
    clips: tuple[str, ...] = ()
    ignored_rule: IgnoredRule = "inside"
    fill_ignored: bool = False
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    limit: Annotated[int, Range(0, unit="images; 0: all")] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained and measured on: `train` and `val` for detectors, `train_masks` and `val_masks` for Semantic FPN.

    Attributes:
        train: images with boxes to train on.
        val: images with boxes to measure on.
        train_masks: images with a class for each pixel to train on.
        val_masks: images with a class for each pixel to measure on.
        workers: processes that read images; 0: in the training process.
    """

    train: DetectionSourceConfig = DetectionSourceConfig()
    val: DetectionSourceConfig = DetectionSourceConfig()
    train_masks: MaskedSourceConfig = _NO_MASKS
    val_masks: MaskedSourceConfig = _NO_MASKS
    workers: Annotated[int, Range(0, unit="processes; 0: in the training process")] = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Sizes and augmentations.

    Attributes:
        sizes: short sides in pixels; one of them is drawn for each image in training, and the last is for measuring.
        max_size: longest side in pixels.
        flip: how often an image is mirrored.
        cut: how often a detector's image is first brought to a short side of 400, 500 or 600 pixels, and a rectangle with sides
            of 384 to 600 pixels is cut out of it, as DETR and SelfPatch do.
        jitter: range of the factor of large-scale jitter, whose result is cut and padded to a square of the last of `sizes`;
            (1.0, 1.0): none.
        crop: side of the square that Semantic FPN is trained on, after a factor of `ratio`; 0: whole images.
        ratio: range of that factor.
        photometric: how much brightness, contrast, saturation and hue vary for Semantic FPN; 0: not at all.
    """

    sizes: Annotated[tuple[int, ...], Range(1, unit="pixels")] = (800,)
    max_size: Annotated[int, Range(1, unit="pixels")] = 1333
    flip: Probability = 0.5
    cut: Probability = 0.0
    jitter: Annotated[tuple[float, float], Range(0, above=True, unit="factor")] = (1.0, 1.0)
    crop: Annotated[int, Range(0, unit="pixels; 0: whole images")] = 0
    ratio: Annotated[tuple[float, float], Range(0, above=True, unit="factor")] = (0.5, 2.0)
    photometric: Probability = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its learning rate.

    Attributes:
        name: "adamw" or "sgd".
        lr: the largest learning rate.
        weight_decay: of all parameters, or with `decay_norms` off of all but norms, position embedding and prefix tokens.
        decay_norms: whether those decay too.
        momentum: of SGD.
        layer_decay: factor of the learning rate from a block to the one before it; 1.0: all are equal.
        warmup_steps: steps over which the learning rate rises from almost 0.
        schedule: "steps": a tenth at each of `drops`; "poly": in a straight line to 0.
        drops: shares of the run at which the learning rate drops.
        clip_norm: largest norm of all gradients together; 0: not clipped.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Range(0, above=True, unit="per step")] = 1e-4
    weight_decay: Annotated[float, Range(0, unit="per step and learning rate")] = 0.05
    decay_norms: bool = True
    momentum: Probability = 0.9
    layer_decay: Annotated[float, Range(0, 1, above=True, unit="factor a block")] = 1.0
    warmup_steps: Annotated[int, Range(0, unit="steps")] = 0
    schedule: Literal["steps", "poly"] = "steps"
    drops: Annotated[tuple[float, ...], Range(0, 1, unit="share of the run")] = (0.67, 0.92)
    clip_norm: Annotated[float, Range(0, unit="norm; 0: not clipped")] = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperConfig:
    """Numbers of the paper for the same recipe, in percent, which are shown beside those of the run.

    Attributes:
        metrics: their names, as in metrics.jsonl.
        flsl: what FLSL reaches by each; 0.0: not given.
        dino: what DINO reaches.
    """

    metrics: tuple[str, ...] = ()
    flsl: Annotated[tuple[float, ...], Range(0, 100, unit="%; 0: not given")] = ()
    dino: Annotated[tuple[float, ...], Range(0, 100, unit="%; 0: not given")] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """One fine-tuning run.

    Attributes:
        seed: decides all random numbers.
        batch_size: images of a step, over all devices.
        steps: updates.
        network: what is put on the backbone.
        data: images to train and to measure on.
        augment: sizes and augmentations.
        optimizer: the optimizer and its learning rate.
        precision: of the arithmetic, as Lightning Fabric names it.
        measure_every: steps from one measurement to the next, each of which saves too; 0: at the end only.
        log_every: steps from one line of metrics to the next.
        paper: what the paper's numbers are of, such as its table and its network; printed below the results.
        paper_numbers: the numbers.
    """

    seed: Seed = 0
    batch_size: Annotated[int, Range(1, unit="images")] = 16
    steps: Annotated[int, Range(1, unit="steps")] = 90_000
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    measure_every: Annotated[int, Range(0, unit="steps; 0: at the end only")] = 0
    log_every: Annotated[int, Range(1, unit="steps")] = 50
    paper: str = ""
    paper_numbers: PaperConfig = PaperConfig()

    @property
    def is_segmentation(self) -> bool:
        """Whether pixels are classified, and not objects found."""
        return self.network.kind == "semantic_fpn"

    @property
    def main_metric(self) -> str:
        """What the best checkpoint of a run is the best by."""
        if self.is_segmentation:
            return "miou"
        return "voc_ap70" if self.data.val.name == "uavdt" else "box_ap"


def parse_transfer_config(values: Mapping[str, Any]) -> TransferConfig:
    """Typed configuration from a nested mapping; a key that is left out takes its default.

    Raises:
        UserError: an unknown key, a wrong type, a value out of range, or values that do not fit together; names the key.
    """
    config = parse(TransferConfig, values, path="config")
    check_ranges(config, path="config")
    network, augment = config.network, config.augment
    require(bool(augment.sizes), "config.augment.sizes is empty; expected at least one short side in pixels")
    require(
        network.pyramid != "simple" or not config.is_segmentation,
        'config.network.pyramid is "simple", which Semantic FPN does not have; expected "patch" or "flat"',
    )
    require(
        network.pyramid != "flat" or config.is_segmentation,
        'config.network.pyramid is "flat", which detectors do not have; expected "patch" or "simple"',
    )
    require(
        not network.relative_grid or bool(network.window),
        f"config.network.relative_grid is {network.relative_grid} without windows; set config.network.window, such as 14",
    )
    for name in ("jitter", "ratio"):
        low, high = getattr(augment, name)
        require(low <= high, f"config.augment.{name} is {(low, high)}; expected (low, high) with low <= high")
    numbers = config.paper_numbers
    require(
        len(numbers.metrics) == len(numbers.flsl) == len(numbers.dino),
        "config.paper_numbers has tuples of different lengths; expected a number of flsl and of dino for each of metrics",
    )
    require(list(config.optimizer.drops) == sorted(config.optimizer.drops), "config.optimizer.drops do not rise")
    return config


def read_transfer_config(path: Path) -> TransferConfig:
    """The config in the `config.json` of a run of `flsl_jax.transfer`, as it was changed last.

    Raises:
        UserError: it is not there, or is that of another kind of run.
    """
    return parse_transfer_config(read_saved_values(path))
