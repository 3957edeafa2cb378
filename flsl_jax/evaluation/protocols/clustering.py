"""Unsupervised segmentation: k-means over the tokens of a data set, its clusters matched to the classes of the masks.

What is computed: docs/protocols.md, "Unsupervised segmentation".
"""

import dataclasses
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from flsl_jax.config import ClusteringConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.masks import MaskedSource, open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.masked_tokens import make_fit, masked_tokens
from flsl_jax.evaluation.meaning import cluster_warnings, judged_pixels, require_classes
from flsl_jax.evaluation.miou import confusion_matrix, hungarian_match, majority_match, mask_scores, matched
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.evaluation.unit_vectors import unit_vectors
from flsl_jax.evaluation.upsampling import upsampled_classes
from flsl_jax.typing import Float, Int

# Of scikit-learn's mini-batch k-means: tokens for each update of the centres, and starts of which the best is taken.
_KMEANS: dict[str, Any] = {"batch_size": 4096, "n_init": 3}


@dataclasses.dataclass(frozen=True)
class ClusteringData:
    """The tokens and masks of I images.

    `tokens`: l2-normalised, image after image, each row by row. `grids`: height and width of each image's grid of patches.
    `masks`: what maps of clusters are judged by, labels below `num_classes`; -1 is ignored.
    """

    tokens: Float[np.ndarray, "N D"]
    grids: Int[np.ndarray, "I 2"]
    masks: tuple[np.ndarray, ...]
    num_classes: int


def evaluate(
    encoder: Encoder, settings: ClusteringConfig, *, batch_size: int, data: MaskedSource | None = None
) -> Scores:
    """k-means with every number of clusters and every seed; means and standard deviations over the seeds.

    All tokens (4 D bytes each) and masks are held in memory. From the second number of clusters on, metrics carry it in
    their names, such as `miou_k54`. There is a row for each run and each of the two ways of matching.

    Args:
        encoder: its l2-normalised tokens are clustered.
        settings: of the protocol.
        batch_size: images encoded at a time.
        data: from `open_data`; None: opened here.

    Raises:
        UserError: as `open_data`; or there are fewer tokens than clusters.
    """
    source = data or open_data(settings, **as_trained(encoder))
    collected = collect(source, encoder, settings, batch_size=batch_size)
    counts = sum(np.bincount(mask[mask >= 0], minlength=source.num_classes) for mask in collected.masks)
    pixels = sum(mask.size for mask in collected.masks)
    judged = judged_pixels(source, np.asarray(counts), pixels=pixels, key="clustering.data")
    occurring, warnings = int(np.count_nonzero(counts)), list(judged.warnings)
    metrics: dict[str, float] = {}
    rows: list[dict[str, float | str]] = []
    for place, wanted in enumerate(settings.clusters):
        clusters = wanted or occurring
        if clusters > len(collected.tokens):
            raise UserError(f"{source.name}: {clusters} clusters of {len(collected.tokens)} tokens; set fewer clusters")
        warnings += cluster_warnings(clusters, tokens=len(collected.tokens))
        matching = "hungarian" if clusters <= occurring else "majority"
        title = f"{encoder.name}, k-means, {clusters} clusters"
        runs = [
            _run(collected, clusters=clusters, seed=seed, upsample=settings.upsample)
            for seed in tqdm(range(settings.seeds), desc=title, unit="seed", disable=None)
        ]
        chosen = [run[matching] for run in runs]
        suffix = f"_k{clusters}" if place else ""
        for key in ("miou", "aacc"):
            values = [scores[key] for scores in chosen]
            metrics |= {f"{key}{suffix}": float(np.mean(values)), f"{key}_std{suffix}": float(np.std(values))}
        rows += [
            {"clusters": str(clusters), "seed": str(seed), "matched": way, **scores}
            for seed, run in enumerate(runs)
            for way, scores in run.items()
        ]
    return Scores(metrics=metrics, rows=rows, images=len(source), judged=judged.facts, warnings=warnings)


def open_data(
    settings: ClusteringConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB
) -> MaskedSource:
    """The images and masks.

    Raises:
        UserError: the source cannot be opened or shows fewer than two classes, or the size is not a multiple of the patch.
    """
    fit = make_fit(settings, patch_size=patch_size, image_size=image_size)
    source = open_masked(settings.data, decoding=decoding)
    require_classes(source, fit, key="clustering.data")
    return source


def collect(source: MaskedSource, encoder: Encoder, settings: ClusteringConfig, *, batch_size: int) -> ClusteringData:
    """Tokens and masks of the whole source."""
    fit = make_fit(settings, patch_size=encoder.patch_size, image_size=encoder.image_size)
    kind = np.int16 if source.num_classes < 2**15 else np.int32
    tokens: list[np.ndarray] = []
    grids: list[tuple[int, ...]] = []
    masks: list[np.ndarray] = []
    for item in masked_tokens(source, encoder.tokens, fit, batch_size=batch_size, title=encoder.name):
        flat = item.tokens.reshape(-1, item.tokens.shape[-1])
        tokens.append(unit_vectors(flat))
        grids.append(item.tokens.shape[:2])
        masks.append(item.judged.astype(kind))
    return ClusteringData(
        tokens=np.concatenate(tokens), grids=np.array(grids), masks=tuple(masks), num_classes=source.num_classes
    )


def assign(tokens: Float[np.ndarray, "N D"], *, clusters: int, seed: int) -> Int[np.ndarray, " N"]:
    """The cluster of every token after mini-batch k-means (Sculley 2010), started by k-means++; deterministic by seed."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(clusters, random_state=seed, **_KMEANS)
    return model.fit_predict(tokens)


def cluster_confusion(
    data: ClusteringData, assigned: Int[np.ndarray, " N"], *, clusters: int, upsample: Literal["nearest", "bilinear"]
) -> Int[np.ndarray, "K P"]:
    """Pixels by class and cluster, after each image's map of clusters is brought to the size of its mask.

    "bilinear" makes a map for each cluster, one where it is and zero elsewhere, interpolates these maps, and gives each pixel
    the cluster whose map is largest there. "nearest" gives each pixel the cluster of its patch.
    """
    confusion = np.zeros((data.num_classes, clusters), np.int64)
    start = 0
    for (height, width), mask in zip(data.grids, data.masks):
        labels = assigned[start : start + height * width]
        start += height * width
        found, places = np.unique(labels, return_inverse=True)
        scores = np.eye(len(found), dtype=np.float32)[places].reshape(height, width, -1)
        pixels = found[upsampled_classes(scores, height=mask.shape[0], width=mask.shape[1], mode=upsample)]
        confusion += confusion_matrix(mask, pixels, num_classes=data.num_classes, num_predicted=clusters)
    return confusion


def _run(
    data: ClusteringData, *, clusters: int, seed: int, upsample: Literal["nearest", "bilinear"]
) -> dict[str, dict[str, float]]:
    """Scores of one run of k-means, by the way of matching."""
    assigned = assign(data.tokens, clusters=clusters, seed=seed)
    confusion = cluster_confusion(data, assigned, clusters=clusters, upsample=upsample)
    matches = {"hungarian": hungarian_match(confusion), "majority": majority_match(confusion)}
    return {way: mask_scores(matched(confusion, match)).metrics() for way, match in matches.items()}


TASK = Task(
    name="clustering",
    settings=ClusteringConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Unsupervised segmentation: do clusters of tokens, by k-means, coincide with the classes of the masks?",
    needs="images with segmentation masks (data): a folder of PNG ids, COCO panoptic, Cityscapes, scenes",
)
