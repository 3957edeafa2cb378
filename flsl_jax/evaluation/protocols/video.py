"""Video object segmentation by label propagation (paper, Table 4; docs/protocols.md, "Video label propagation")."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np
from tqdm import tqdm

from flsl_jax.config import VideoConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.videos import (
    FileVideo,
    Video,
    VideoSet,
    check_mask,
    judged_frames,
    open_videos,
    read_ids,
    write_masks,
)
from flsl_jax.errors import UserError
from flsl_jax.evaluation import propagation
from flsl_jax.evaluation.batches import images_at_once
from flsl_jax.evaluation.davis_metric import ObjectScores, score_objects
from flsl_jax.evaluation.encoder import Encoder, as_trained
from flsl_jax.evaluation.task import Scores, Task
from flsl_jax.typing import Array, Float, UInt8

log = logging.getLogger(__name__)

# The number of labels is rounded up to a multiple of this, so that videos of one size share a compilation.
_CHANNELS = 8


def open_data(settings: VideoConfig, *, patch_size: int, image_size: int, decoding: Decoding = RGB) -> VideoSet:
    """The videos of the protocol, after a check of every file that will be read.

    Args:
        settings: of the protocol; with `predictions` those files are checked too, and the patch size does not matter.
        patch_size: of the encoder, in pixels.
        image_size: not used: frames have the protocol's size.
        decoding: how frames are read for the encoder.

    Raises:
        UserError: as `open_videos`; the frames' size is not a multiple of the patch; a prediction is missing or has another
            size; or no video has a mask beside that of its first frame, and no `output` is asked for.
    """

    def check(video: Video) -> None:
        if not settings.predictions:
            frame_size(video, settings, patch_size=patch_size)
            return
        for path in _predicted_files(video, settings):
            check_mask(path, width=video.width, height=video.height)

    data = open_videos(settings, check=check, decoding=decoding)
    if not any(map(judged_frames, data)) and (settings.predictions or not settings.output):
        raise UserError(
            f"no video has a mask beside that of its first frame, such as {data.videos[0].name}: there is nothing to judge; "
            "add masks, or set output of the video task to have the predicted ones written"
        )
    return data


def evaluate(encoder: Encoder, settings: VideoConfig, *, batch_size: int, data: VideoSet | None = None) -> Scores:
    """Follows the objects of each video's first frame through the video, and judges the masks as DAVIS-2017 does.

    With `settings.predictions` finished masks are judged, `predictions`/VIDEO/FRAME.png, and the encoder is not used.

    Args:
        encoder: whose tokens are compared.
        settings: of the protocol.
        batch_size: images of the encoder's training size that are encoded at a time; frames are larger, so fewer of them
            are.
        data: from `open_data`; None: opened here.

    Returns:
        `jf_mean`: the mean of `j_mean` and `f_mean`, which are means over objects, not over videos. Recall and decay of
        both. A row for each object. Where ids of a first frame have gaps, `jf_mean_shown` too: the mean over the objects
        that the first frame shows. Videos that have a mask of their first frame alone are not judged; if all are like that,
        there are no metrics.

    Raises:
        UserError: as `open_data`; a frame cannot be read, or a prediction has an id of no object, and `on_error` is "fail"; or
            every video is left out.
    """
    if data is None:
        data = open_data(settings, **as_trained(encoder))
    found, left_out, images = dict[str, list[ObjectScores]](), dict(data.left_out), 0
    for video in tqdm(data, desc="videos", unit="video", disable=None if settings.predictions else True):
        if not judged_frames(video) and (settings.predictions or not settings.output):
            continue
        try:
            predicted = _predicted(encoder, video, settings, batch_size=batch_size)
            if judged_frames(video):
                found[video.name] = _judge(video, predicted)
        except UserError as error:
            if settings.on_error == "fail":
                raise
            log.warning("left out: %s", error)
            left_out[video.name] = str(error)
        else:
            images += 0 if settings.predictions else len(video.frames)
    kept = VideoSet(tuple(video for video in data if video.name not in left_out), left_out)
    if not kept:
        raise UserError(f"all {len(left_out)} videos are left out, the first because: {next(iter(left_out.values()))}")
    scores = summary(found, phantoms=phantoms(kept.videos), images=images)
    return dataclasses.replace(scores, warnings=[*scores.warnings, *_remarks(kept, settings)])


def _predicted(encoder: Encoder, video: Video, settings: VideoConfig, *, batch_size: int) -> UInt8[np.ndarray, "T H W"]:
    """The masks of the frames that are judged; all that are propagated are written, if that is asked for."""
    if settings.predictions:
        return read_predictions(video, settings)
    masks = propagate(encoder, video, settings, batch_size=batch_size)
    if settings.output:
        write_masks(Path(settings.output) / video.name, masks, frames=video.frames)
    return masks[list(judged_frames(video))]


def _remarks(data: VideoSet, settings: VideoConfig) -> list[str]:
    """What makes the numbers less than those of whole videos, each a line."""
    lines = []
    if data.left_out:
        name, why = next(iter(data.left_out.items()))
        lines.append(
            f"{len(data.left_out)} of {len(data) + len(data.left_out)} videos are left out, such as {name}: {why}"
        )
    first = [video for video in data if len(video.annotated) == 1]
    if first:
        written = f"; their predicted masks are in {settings.output}" if settings.output else ""
        lines.append(
            f"{len(first)} of {len(data)} videos have a mask of their first frame alone, such as {first[0].name}, and are not "
            f"judged{written}"
        )
    some = [video for video in data if 1 < len(video.annotated) < len(video.frames)]
    if some:
        lines.append(
            f"{len(some)} of {len(data)} videos have masks of some frames alone, such as {some[0].name} of "
            f"{len(some[0].annotated)} of {len(some[0].frames)}; all of them but the first are judged"
        )
    gaps = [video for video in data if isinstance(video, FileVideo) and video.gap]
    if gaps:
        lines.append(
            f"numbers of frames have gaps in {len(gaps)} of {len(data)} videos, such as {gaps[0].name}, which has no "
            f"{gaps[0].gap}; frames are taken as they follow one another"
        )
    return lines


def read_predictions(video: Video, settings: VideoConfig) -> UInt8[np.ndarray, "T H W"]:
    """The given masks of the frames that are judged.

    Raises:
        UserError: one cannot be read, or has an id that is not among the objects of the video's first frame.
    """
    num_objects, masks = int(video.mask(0).max()), []
    for path in _predicted_files(video, settings):
        masks.append(read_ids(path))
        if masks[-1].max() > num_objects:
            raise UserError(
                f"mask {path} has id {masks[-1].max()}, but the video's first frame has objects up to {num_objects}; a "
                "prediction may have no other id"
            )
    return np.stack(masks)


def propagate(encoder: Encoder, video: Video, settings: VideoConfig, *, batch_size: int) -> UInt8[np.ndarray, "T H W"]:
    """The object ids of every frame; those of the first frame are as given.

    Args:
        encoder: see `evaluate`, as for `settings` and `batch_size`.
        video: its first mask is read, and no other.

    Raises:
        UserError: as `frame_size`.
    """
    size = frame_size(video, settings, patch_size=encoder.patch_size)
    first = video.mask(0)
    grid = (size[0] // encoder.patch_size, size[1] // encoder.patch_size)
    channels = -(-(int(first.max()) + 1) // _CHANNELS) * _CHANNELS
    masks, context = [first], None
    for tokens in _encoded(encoder, video, size=size, batch_size=batch_size):
        if context is None:
            labels = propagation.first_labels(first, grid=grid, channels=channels)
            context = propagation.start(tokens, labels, context=settings.context)
            continue
        context, labels = propagation.follow(
            context, tokens, radius=settings.radius, top_k=settings.top_k, temp=settings.temp
        )
        ids = np.asarray(propagation.to_pixels(labels, patch_size=encoder.patch_size))
        masks.append(propagation.to_size(ids, height=video.height, width=video.width))
    return np.stack(masks)


def frame_size(video: Video, settings: VideoConfig, *, patch_size: int) -> tuple[int, int]:
    """Height and width in pixels at which a video's frames are encoded.

    The short side (of a square, the height) is `short_side`; the other is in proportion, floored to a multiple of
    `side_multiple`.

    Raises:
        UserError: one is not a multiple of the patch, or nothing is left of the other side.
    """
    short, long = sorted((video.height, video.width))
    other = settings.short_side * long // short // settings.side_multiple * settings.side_multiple
    size = (other, settings.short_side) if video.height > video.width else (settings.short_side, other)
    if other == 0 or size[0] % patch_size or size[1] % patch_size:
        raise UserError(
            f"video {video.name}: frames of {video.width}×{video.height} would be resized to {size[1]}×{size[0]}, which "
            f"patches of {patch_size} do not divide; set short_side and side_multiple of the video task to multiples of "
            f"{patch_size} that fit"
        )
    return size


def phantoms(videos: Sequence[Video]) -> dict[str, frozenset[int]]:
    """Of each video, by its name, the ids below the largest one of the first frame that this frame does not show.

    The official evaluation judges them as objects, but nothing says where they are.
    """
    shown = {video.name: set(map(int, np.unique(video.mask(0)))) for video in videos}
    return {name: frozenset(range(1, max(ids))) - ids for name, ids in shown.items()}


def summary(
    found: dict[str, list[ObjectScores]], *, phantoms: Mapping[str, frozenset[int]] = MappingProxyType({}), images: int
) -> Scores:
    """Means over all objects, and a row for each.

    Args:
        found: the objects of each video, by its name, in the order of their ids from 1. None: there are no metrics.
        phantoms: ids among them that no first frame shows, by the name of the video. Where there are any, `jf_mean_shown` is
            the mean without them, and each row says whether its object is one.
        images: frames that were encoded.
    """
    if not found:
        return Scores(metrics={}, images=images)
    numbered = [(name, number, scores) for name, video in found.items() for number, scores in enumerate(video, start=1)]
    unseen = [number in phantoms.get(name, ()) for name, number, _ in numbered]
    means = _means([scores for *_, scores in numbered])
    rows = [
        {"video": name, "object": str(number), "j_mean": scores.region.mean, "f_mean": scores.boundary.mean}
        | ({"shown": "no" if phantom else "yes"} if any(unseen) else {})
        for (name, number, scores), phantom in zip(numbered, unseen)
    ]
    metrics = {"jf_mean": (means["j_mean"] + means["f_mean"]) / 2}
    warnings = []
    if any(unseen):
        shown = _means([scores for (*_, scores), phantom in zip(numbered, unseen) if not phantom])
        metrics["jf_mean_shown"] = (shown["j_mean"] + shown["f_mean"]) / 2
        name, number, _ = numbered[unseen.index(True)]
        warnings.append(
            f"the ids of first frames have gaps: {sum(unseen)} of {len(numbered)} objects, such as {number} in {name}, are in "
            "no first frame, and the official jf_mean counts them (1 each where they never occur); jf_mean_shown leaves them "
            "out. Number objects 1, 2, … to be comparable"
        )
    return Scores(metrics=metrics | means, rows=rows, images=images, warnings=warnings)


def _means(objects: Sequence[ObjectScores]) -> dict[str, float]:
    kinds = {"j": "region", "f": "boundary"}
    return {
        f"{letter}_{part}": float(np.mean([getattr(getattr(scores, kind), part) for scores in objects]))
        for letter, kind in kinds.items()
        for part in ("mean", "recall", "decay")
    }


def _judge(video: Video, predicted: UInt8[np.ndarray, "T H W"]) -> list[ObjectScores]:
    truth = np.stack([video.mask(index) for index in judged_frames(video)])
    return score_objects(truth, predicted, num_objects=int(video.mask(0).max()))


def _encoded(
    encoder: Encoder, video: Video, *, size: tuple[int, int], batch_size: int
) -> Iterator[Float[Array, "h w D"]]:
    """The tokens of every frame. Batches have one shape; the next one is computed while the frames of one are used."""
    count, batch = len(video.frames), min(images_at_once(encoder, size=size, batch_size=batch_size), len(video.frames))

    def encode(begin: int) -> Array:
        numbers = np.minimum(np.arange(begin, begin + batch), count - 1)
        frames = np.stack([video.image(int(number)) for number in numbers])
        tokens = encoder.tokens(propagation.resize_frames(frames, height=size[0], width=size[1]))
        return jax.device_put(tokens, jax.local_devices()[0])  # frames follow one another, so one device does it all

    ahead = encode(0)
    with tqdm(total=count, desc=f"video {video.name}", unit="frame", disable=None) as progress:
        for begin in range(0, count, batch):
            tokens = ahead
            if begin + batch < count:
                ahead = encode(begin + batch)
            for frame in tokens[: count - begin]:
                yield frame
                progress.update()


def _predicted_files(video: Video, settings: VideoConfig) -> list[Path]:
    return [Path(settings.predictions, video.name, f"{video.frames[index]}.png") for index in judged_frames(video)]


TASK = Task(
    name="video",
    settings=VideoConfig,
    open=open_data,
    evaluate=evaluate,
    judges="Video label propagation (DAVIS-2017, semi-supervised): do features follow the objects of a first frame?",
    needs="videos in DAVIS-2017 layout (root), or scenes (name, count, scene_size, and a short_side to go with it); "
    "with predictions, a folder of masks to judge instead of a model",
    reference="paper, DAVIS-2017 val, J&F: 0.656 (ViT-S/16), 0.661 (ViT-B/16), 0.735 (ViT-S/8)",
    without_model=lambda settings: bool(settings.predictions),
    folder="output",
)
