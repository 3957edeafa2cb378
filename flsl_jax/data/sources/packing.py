"""Packs images into ArrayRecord shards; a run that was interrupted continues where it stopped."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.decode import RGB, DecodeError, Decoding, pixels_of
from flsl_jax.data.images.listing import Listing
from flsl_jax.data.images.resize import resize
from flsl_jax.data.loading.workers import start_worker
from flsl_jax.data.records import Record, Source, digest_of, path_of
from flsl_jax.data.sources.boxed_source import with_boxes
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.data.sources.shards import MANIFEST_NAME, Manifest, Shard, brief, encode_record, read_manifest, sha256_of
from flsl_jax.data.sources.survey import check_readable
from flsl_jax.errors import UserError, one_line

log = logging.getLogger(__name__)

_PROGRESS = "unfinished"
_JPEG_QUALITY = 95
# Of a worker process: the one source that it packs.
_worker_source: list[Source] = []


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to write, of the records `start` to `stop` - 1."""

    output: str
    file: str
    start: int
    stop: int
    short_side: int
    decoding: Decoding


@dataclasses.dataclass(frozen=True)
class _Written:
    """A finished shard, which has no file if it has no records; and the images left out of it, each with the reason."""

    shard: Shard
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "_Written":
        values = json.loads(text)
        return _Written(
            shard=Shard(**values["shard"]), skipped=tuple((name, reason) for name, reason in values["skipped"])
        )


def pack(
    source: Source,
    output: Path,
    *,
    short_side: int = 0,
    decoding: Decoding = RGB,
    boxes: Path | None = None,
    records_per_shard: int = 1024,
    workers: int = 1,
) -> Manifest:
    """Packs every image of a source, in its order, with its label and its boxes if they are known.

    The bytes written depend on the input and the settings only, not on `workers`. Each shard is renamed into place when it is
    complete; `manifest.json` is written last. A second call after an interruption keeps finished shards and writes the others.

    Args:
        source: the images; what they were read from is not changed.
        output: folder to write to; it is made if it does not exist.
        short_side: if positive, the shorter side in pixels to which a larger image is reduced (Pillow's antialiased
            bicubic filter); it is then stored upright as JPEG of quality 95, and so is a frame of a video. Every other image
            keeps its own bytes. With other channels than three it is stored as `.npy`.
        decoding: which channels are read, and which values of more than 8 bits are black and white in what is reduced.
        boxes: COCO JSON file or folder of VOC XML files; boxes are scaled with their images.
        records_per_shard: images per file, before those that cannot be decoded are left out.
        workers: processes to start; with 0 or 1, the calling process does the work.

    Returns:
        the manifest of the data set.

    Raises:
        UserError: there are no images, or none of a sample can be read, the folder cannot be written, or `output` holds a data
            set made from other images or with other settings.
    """
    if output.resolve() == Path(source.name).resolve():
        raise UserError(f"--output={output} is the input folder; name another one")
    settings = {
        "input": _fingerprint(source),
        "boxes": sha256_of(boxes) if boxes is not None and boxes.is_file() else str(boxes or ""),
        "short_side": short_side,
        "records_per_shard": records_per_shard,
        "jpeg_quality": _JPEG_QUALITY,
    } | ({} if decoding == RGB else {"decoding": decoding.describe()})
    if (output / MANIFEST_NAME).exists():
        manifest = read_manifest(output)
        _check_same(manifest.settings, settings, output)
        _remove_progress(output)
        return manifest
    check_readable(source, decoding)
    _start(output, settings)
    boxed = with_boxes(source, boxes) if boxes is not None else None
    jobs = _jobs(source, output=output, decoding=decoding, short_side=short_side, records_per_shard=records_per_shard)
    written = _run(jobs, source=boxed or source, workers=workers)
    listing: Listing | None = getattr(source, "listing", None)
    return _finish(
        output,
        written,
        unusable=() if listing is None else listing.unusable,
        class_names=(boxed or source).class_names,
        settings=settings,
    )


def _fingerprint(source: Source) -> str:
    """SHA-256 of the relative paths and sizes of all files, and of their classes where these are not those of the paths; the
    source's digest if its images are not files."""
    size, digest = getattr(source, "size", None), hashlib.sha256()
    if size is None:
        return digest_of(source.digest, *source.class_names)
    label = None if isinstance(source, FolderSource) else getattr(source, "label", None)
    for index in range(len(source)):
        digest.update(os.fsencode(path_of(source, index) or "") + b"\0")
        digest.update(str(size(index)).encode() + b"\0")
        if label is not None:
            digest.update(str(label(index)).encode() + b"\0")
    if label is not None:
        digest.update(os.fsencode("\0".join(source.class_names)))
    return digest.hexdigest()


def _check_same(found: dict[str, Any], wanted: dict[str, Any], output: Path) -> None:
    different = [name for name in wanted | found if found.get(name) != wanted.get(name)]
    if different:
        raise UserError(
            f"--output={output} holds a data set made with another {', another '.join(different)}; name another folder "
            "or delete it"
        )


def _start(output: Path, settings: dict[str, Any]) -> None:
    """Makes the folders; checks that what an interrupted run left there has the same input and settings."""
    path = output / _PROGRESS / "settings.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same(json.loads(path.read_text()), settings, output)
        else:
            _write_whole(path, json.dumps(settings))
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({error.strerror}); name another folder") from error


def _jobs(
    source: Source, *, output: Path, decoding: Decoding, short_side: int, records_per_shard: int
) -> Iterator[_Job]:
    total = len(source)
    num_shards = -(-total // records_per_shard)
    for shard in range(num_shards):
        yield _Job(
            output=os.fspath(output),
            file=f"shard-{shard:05d}-of-{num_shards:05d}.array_record",
            start=shard * records_per_shard,
            stop=min((shard + 1) * records_per_shard, total),
            short_side=short_side,
            decoding=decoding,
        )


def _run(jobs: Iterator[_Job], *, source: Source, workers: int) -> list[_Written]:
    """All shards, in order, with a progress bar on a terminal."""
    from tqdm import tqdm

    written: dict[str, _Written] = {}
    with tqdm(total=len(source), unit=" images", disable=None) as bar:
        for job, result in _results(jobs, source=source, workers=workers):
            written[job.file] = result
            bar.update(job.stop - job.start)
            for name, reason in result.skipped:
                shown = one_line(name)
                log.warning("left out %s: %s", shown, reason.removeprefix(f"{shown}: "))
    return [written[file] for file in sorted(written)]


def _results(jobs: Iterator[_Job], *, source: Source, workers: int) -> Iterator[tuple[_Job, _Written]]:
    """Each job with its result, as they finish; at most two jobs per worker are held at a time."""
    if workers <= 1:
        for job in jobs:
            yield job, _pack_shard(job, source)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_packer, initargs=(source,)
    ) as pool:
        running: dict[concurrent.futures.Future[_Written], _Job] = {}
        try:
            for job in jobs:
                running[pool.submit(_pack_in_worker, job)] = job
                if len(running) >= 2 * workers:
                    yield from _finished(running)
            while running:
                yield from _finished(running)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process ended unexpectedly (out of memory?); run the same command with fewer --workers to continue"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _finished(running: dict[concurrent.futures.Future[_Written], _Job]) -> Iterator[tuple[_Job, _Written]]:
    done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
    for future in done:
        yield running.pop(future), future.result()


def _start_packer(source: Source) -> None:
    """Begins a worker process, which keeps its copy of the source."""
    start_worker()
    _worker_source.append(source)


def _pack_in_worker(job: _Job) -> _Written:
    return _pack_shard(job, _worker_source[-1])


def _pack_shard(job: _Job, source: Source) -> _Written:
    """The work of a worker: writes one shard, unless an earlier run has written it."""
    path = Path(job.output, job.file)
    progress = Path(job.output, _PROGRESS, job.file + ".json")
    written = _earlier(progress)
    if written is not None and (
        written.shard.count == 0 or (path.is_file() and path.stat().st_size == written.shard.size)
    ):
        return written
    records, skipped = [], []
    for index in range(job.start, job.stop):
        try:
            records.append(encode_record(_packed(source[index], short_side=job.short_side, decoding=job.decoding)))
        except (DecodeError, OSError) as error:
            skipped.append((path_of(source, index) or f"record {index}", str(error)))
    shard = _write_shard(path, records) if records else Shard(file=job.file, count=0, size=0, sha256="")
    written = _Written(shard=shard, skipped=tuple(skipped))
    _write_whole(progress, written.to_json())
    return written


def _earlier(progress: Path) -> _Written | None:
    """What an earlier run has noted of a shard that it finished; None without such a note or if it cannot be read."""
    try:
        return _Written.from_json(progress.read_text())
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _packed(record: Record, *, short_side: int, decoding: Decoding = RGB) -> Record:
    """The record with its image, reduced if it is too large. Every image is decoded once, to be sure that it can be."""
    data = record.image
    pixels = pixels_of(data, name=record.name, decoding=decoding, page=record.page)
    height, width = pixels.shape[:2]
    if short_side <= 0 or min(height, width) <= short_side:
        return dataclasses.replace(
            record, image=data if isinstance(data, bytes) and not record.page else _encoded(pixels)
        )
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    image = _encoded(resize(pixels, height=size[1], width=size[0]))
    boxes = record.boxes
    if boxes is not None:
        factors = np.array([size[0] / width, size[1] / height] * 2, np.float32)
        boxes = Boxes(xyxy=boxes.xyxy * factors, labels=boxes.labels)
    return dataclasses.replace(record, image=image, boxes=boxes)


def _encoded(pixels: np.ndarray) -> bytes:
    """JPEG of colour; other channels as `.npy`, because JPEG has none."""
    if pixels.shape[-1] != 3:
        buffer = io.BytesIO()
        np.save(buffer, pixels)
        return buffer.getvalue()
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=_JPEG_QUALITY, colorsubsampling="420")


def _write_shard(path: Path, records: list[bytes]) -> Shard:
    from array_record.python.array_record_module import ArrayRecordWriter

    with _writing(path) as temporary:
        writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
        writer.close()
        return Shard(file=path.name, count=len(records), size=temporary.stat().st_size, sha256=sha256_of(temporary))


def _write_whole(path: Path, text: str) -> None:
    """Writes a file such that it is either complete or absent, even after a crash of the machine."""
    with _writing(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A file to write to, which is renamed to `path` when that is done.

    Raises:
        UserError: it cannot be written; nothing is left of it.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (
        OSError,
        RuntimeError,
    ) as error:  # ArrayRecord's writer raises the latter, and for a full disk only when closed
        with contextlib.suppress(OSError):
            temporary.unlink()
        why = error.strerror if isinstance(error, OSError) else brief(error)
        raise UserError(
            f"{path} cannot be written ({why}); make room or mend the folder, and give the same command again: finished "
            "shards are kept"
        ) from error


def _finish(
    output: Path,
    written: list[_Written],
    *,
    unusable: tuple[tuple[str, str], ...],
    class_names: tuple[str, ...],
    settings: dict[str, Any],
) -> Manifest:
    shards = tuple(item.shard for item in written if item.shard.count)
    skipped = (*(entry for item in written for entry in item.skipped), *unusable)
    if not shards:
        raise UserError(f"none of the {len(skipped)} images can be decoded, the first because: {skipped[0][1]}")
    manifest = Manifest(
        count=sum(shard.count for shard in shards),
        class_names=class_names,
        shards=shards,
        skipped=skipped,
        settings=settings,
    )
    _write_whole(output / MANIFEST_NAME, manifest.to_json())
    _remove_progress(output)
    return manifest


def _remove_progress(output: Path) -> None:
    folder = output / _PROGRESS
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
