"""Every evaluation by name, and one call of it: what it judges, what it needs, and how its results are written."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flsl_jax import config
from flsl_jax.config import nearest_key
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.protocols import (
    bbox_knn,
    clustering,
    discovery,
    image_knn,
    linear_probe,
    retrieval,
    separability,
    video,
)
from flsl_jax.evaluation.task import Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One evaluation.

    `settings`: its dataclass in `flsl_jax.config`. `evaluate`: maps (encoder, settings, *, batch_size) to `Scores`.
    `judges`, `needs`: for a person who has not seen it. `reference`: what the paper or a peer reports under the same
    protocol; empty where nobody does. `open`: maps (settings, *, patch_size, image_size) to the task's data, which
    `evaluate` then takes as `data`; it finds bad input before anything is encoded, and training calls it once for all its
    measurements. `without_model`: whether with these settings it judges what is there already and needs no model.
    """

    settings: type
    evaluate: Callable[..., Scores]
    judges: str
    needs: str
    reference: str = ""
    open: Callable[..., Any] | None = None
    without_model: Callable[[Any], bool] = lambda settings: False


TASKS: Mapping[str, Task] = {
    "bbox_knn": Task(
        settings=config.BboxKnnConfig,
        evaluate=bbox_knn.evaluate,
        open=bbox_knn.open_data,
        judges="Bbox-aligned k-NN (paper, Appendix F): do single patch features tell the classes of boxed objects apart?",
        needs="images with boxes, for the bank (train) and for the questions (val): a folder and its COCO JSON, VOC or ILSVRC "
        "XML; shards or tfds with boxes; scenes",
        reference="paper, ImageNet-1k, any of 9 tokens, ViT-S/16: 76.7 % (1600 effective epochs), 72.4 % (100 epochs)",
    ),
    "image_knn": Task(
        settings=config.ImageKnnConfig,
        evaluate=image_knn.evaluate,
        open=image_knn.open_data,
        judges="Image k-NN on the mean token: do whole images lie near others of their class?",
        needs="images with class labels, for the bank (train) and for the questions (val): one folder per class, shards, tfds",
    ),
    "video": Task(
        settings=config.VideoConfig,
        evaluate=video.evaluate,
        open=video.open_data,
        judges="Video label propagation (DAVIS-2017, semi-supervised): do features follow the objects of a first frame?",
        needs="videos in DAVIS-2017 layout (root), or scenes (name, count, scene_size, and a short_side to go with it); "
        "with predictions, a folder of masks to judge instead of a model",
        reference="paper, DAVIS-2017 val, J&F: 65.6 % (ViT-S/16), 66.1 % (ViT-B/16), 73.5 % (ViT-S/8)",
        without_model=lambda settings: bool(settings.predictions),
    ),
    "discovery": Task(
        settings=config.DiscoveryConfig,
        evaluate=discovery.evaluate,
        open=discovery.open_data,
        judges="Unsupervised object discovery: do frozen features find the objects that people drew boxes around? LOST, and "
        "connected regions of one mean-shift mode.",
        needs="images with boxes (data): a folder and its COCO JSON or VOC XML; shards or tfds with boxes; scenes",
        reference="LOST (BMVC 2021), DINO ViT-S/16 keys, CorLoc: VOC07 61.9 %, VOC12 64.0 %, COCO 20k 50.7 %",
    ),
    "separability": Task(
        settings=config.SeparabilityConfig,
        evaluate=separability.evaluate,
        open=separability.open_data,
        judges="Separability (paper, Appendix A): layer by layer, how close are tokens of one label, how far from all others, "
        "and do mean-shift clusters agree with the labels?",
        needs="images with masks (data): a folder of images and one of PNGs with class ids; COCO panoptic; scenes",
    ),
    "retrieval": Task(
        settings=config.RetrievalConfig,
        evaluate=retrieval.evaluate,
        open=retrieval.open_data,
        judges="Dense nearest-neighbour retrieval (Hummingbird): do the nearest patches of other images know a pixel's class?",
        needs="images with segmentation masks, for the memory (train) and for the questions (val): a folder of PNG ids, COCO "
        "panoptic, scenes",
    ),
    "clustering": Task(
        settings=config.ClusteringConfig,
        evaluate=clustering.evaluate,
        open=clustering.open_data,
        judges="Unsupervised segmentation: do clusters of tokens, by k-means, coincide with the classes of the masks?",
        needs="images with segmentation masks (data): a folder of PNG ids, COCO panoptic, scenes",
    ),
    "linear_probe": Task(
        settings=config.LinearProbeConfig,
        evaluate=linear_probe.evaluate,
        open=linear_probe.open_data,
        judges="Linear probe: how well does one linear layer read the classes of the masks from the tokens?",
        needs="images with segmentation masks to train (train) and to judge (val): a folder of PNG ids, COCO panoptic, scenes",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one call of a task gave: `scores`, the number of `images`, and the `seconds` that it took."""

    scores: Scores
    images: int
    seconds: float


def check_names(names: Sequence[str]) -> None:
    """Refuses a name that is no task's, with the nearest one that is."""
    for name in names:
        if name not in TASKS:
            raise UserError(f"there is no task {name!r}; {nearest_key(name, TASKS)}")


def open_task(name: str, settings: Any, *, patch_size: int, image_size: int) -> Any:
    """The data of a task, for `run_task`; None for one that opens its data by itself.

    Raises:
        UserError: bad input, as far as it can be told without encoding an image.
    """
    open_data = TASKS[name].open
    if open_data is None:
        return None
    return open_data(settings, patch_size=patch_size, image_size=image_size)


def run_task(
    name: str,
    settings: Any,
    *,
    encoder: Encoder,
    batch_size: int,
    data: Any = None,
    poll: Callable[[], None] | None = None,
) -> Outcome:
    """Runs a task by name.

    Args:
        name: one of `TASKS`.
        settings: of the task's own dataclass.
        encoder: the features.
        batch_size: images encoded at a time.
        data: from `open_task`.
        poll: called before every batch that is encoded; an exception that it raises ends the task.

    Raises:
        UserError: bad input that only encoding shows.
    """
    images = 0

    def count(number: int) -> None:
        nonlocal images
        images += number
        if poll is not None:
            poll()

    options = {} if data is None else {"data": data}
    start = time.perf_counter()
    encoder.on_images = count
    try:
        scores = TASKS[name].evaluate(encoder, settings, batch_size=batch_size, **options)
    finally:
        encoder.on_images = None
    return Outcome(scores=scores, images=scores.images or images, seconds=time.perf_counter() - start)
