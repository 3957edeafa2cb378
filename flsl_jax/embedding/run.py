"""Embedding from the first shard to the last: what is done is kept, and a run that was stopped goes on."""

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from flsl_jax._version import __version__
from flsl_jax.data.records import Source
from flsl_jax.embedding.files import TEMPORARY, check_format, write_shard
from flsl_jax.embedding.settings import EmbedSettings
from flsl_jax.embedding.shards import embed_shard, fit_of
from flsl_jax.errors import UserError, reason
from flsl_jax.evaluation.encoder import Encoder
from flsl_jax.evaluation.feature_files import probe_of, same_probe

log = logging.getLogger(__name__)

MANIFEST = "embedding.json"
_PROGRESS = "unfinished"
_NAMED = 20
# Seconds without a bar after which a line says how far it is.
_SILENCE = 30.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What lies in the folder: numbers of `images`, `patches` and `clusters`, of images `left_out`, of `shards` that are there
    and `missing`, and `bytes` in all."""

    images: int
    patches: int
    clusters: int
    left_out: int
    shards: int
    missing: int
    bytes: int


def embed(
    encoder: Encoder,
    source: Source,
    output: Path,
    settings: EmbedSettings,
    *,
    batch_size: int = 64,
    part: tuple[int, int] = (1, 1),
) -> Outcome:
    """Writes features of all images of a source into a folder, shard by shard.

    A shard's files get their names when they are whole, and `embedding.json`, which describes all, comes last. The same call
    after an interruption keeps the shards that are done.

    Args:
        encoder: of the features.
        source: the images.
        output: the folder; it is made if it does not exist.
        settings: which features, and how they are written.
        batch_size: images of the training size computed at a time.
        part: (i, n) makes only every n-th shard, beginning with the i-th; n calls, one for each i, may run side by side.

    Returns:
        What is in the folder now.

    Raises:
        UserError: the folder cannot be written, or holds features of other images, of another model or other settings.
    """
    check_format(settings.format)
    fit_of(encoder, settings)
    described = _description(encoder, source, settings)
    count = -(-len(source) // settings.shard_images)
    if (output / MANIFEST).exists():
        manifest = _read_json(output / MANIFEST)
        _check_same(manifest, described, output)
        log.info("%s is finished; nothing is left to do", output)
        return _outcome(dict(enumerate(manifest["shards"])), count)
    _start(output, described)
    done = {number: found for number in range(count) if (found := _done(output, number)) is not None}
    if done:
        log.info("%d of %d shards are done and kept", len(done), count)
    todo = [number for number in range(part[0] - 1, count, part[1]) if number not in done]
    for number, written in _shards(encoder, source, output, settings, todo, batch_size=batch_size):
        done[number] = written
    done |= {number: found for number in range(count) if (found := _done(output, number)) is not None}
    if len(done) == count:
        _finish(output, described, [done[number] for number in range(count)])
    return _outcome(done, count)


def _shards(
    encoder: Encoder, source: Source, output: Path, settings: EmbedSettings, todo: list[int], *, batch_size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Makes and writes the shards of these numbers; each with what its progress file says."""
    size = settings.shard_images
    ranges = {number: range(number * size, min((number + 1) * size, len(source))) for number in todo}
    total, begun, images = sum(map(len, ranges.values())), time.monotonic(), 0
    with tqdm(total=total, unit=" images", disable=None) as bar:
        heartbeat = _Heartbeat(total, silent=not bar.disable)
        for place, (number, indices) in enumerate(ranges.items(), 1):
            shard = embed_shard(
                encoder, source, indices, settings, batch_size=batch_size, advance=lambda: _advance(bar, heartbeat)
            )
            for name, why in shard.left_out[:_NAMED]:
                log.warning("left out %s: %s", name, why)
            rows = {table: len(next(iter(columns.values()))) for table, columns in shard.tables.items()}
            try:
                files = write_shard(output, number, shard, format=settings.format)
                written = {"files": files, "rows": rows, "left_out": shard.left_out}
                _write_json(output / _PROGRESS / f"{number:05d}.json", written)
            except OSError as error:
                raise UserError(
                    f"--output={output}: shard {number} cannot be written ({reason(error)}); make room, and the same command "
                    "goes on"
                ) from error
            images += len(indices)
            if bar.disable:
                seconds = time.monotonic() - begun
                left = tqdm.format_interval(seconds * (total - images) / images)
                log.info("shard %d of %d: %.1f images/s, %s left", place, len(ranges), images / seconds, left)
            yield number, written


class _Heartbeat:
    """Lines of a log, where there is no bar: how far it is, at most every half minute.

    Args:
        total: images to do.
        silent: whether nothing is said.
    """

    def __init__(self, total: int, *, silent: bool) -> None:
        self._total, self._done, self._said = total, 0, time.monotonic()
        self._begun, self._silent = self._said, silent
        if not silent:
            log.info("%d images; the first batch takes longest, as it is compiled first", total)

    def beat(self) -> None:
        """Counts an image."""
        self._done += 1
        now = time.monotonic()
        if self._silent or now - self._said < _SILENCE or self._done == self._total:
            return
        self._said = now
        rate = self._done / (now - self._begun)
        left = tqdm.format_interval((self._total - self._done) / rate)
        log.info("%d of %d images, %.1f images/s, %s left", self._done, self._total, rate, left)


def _advance(bar: Any, heartbeat: _Heartbeat) -> None:
    bar.update()
    heartbeat.beat()


def _description(encoder: Encoder, source: Source, settings: EmbedSettings) -> dict[str, Any]:
    """What a folder of features is of, as JSON has it."""
    probe = probe_of(encoder).astype(float)
    return {
        "model": encoder.name,
        "patch_size": encoder.patch_size,
        "channels": probe.shape[-1],
        "source": source.name,
        "count": len(source),
        "digest": source.digest,
        "settings": {
            **dataclasses.asdict(settings),
            "features": list(settings.features),
            "size": settings.size or encoder.image_size,
            "inv_temp": settings.inv_temp or encoder.inv_temp,
        },
        "probe": probe.tolist(),
        "flsl_jax": __version__,
    }


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], output: Path) -> None:
    try:
        different = [
            f"{name} {found['settings'].get(name)!r} instead of {value!r}"
            for name, value in wanted["settings"].items()
            if found["settings"].get(name) != value
        ]
        if (found["digest"], found["count"]) != (wanted["digest"], wanted["count"]):
            different.append(f"other images ({found['count']} in {found['source']})")
        if not same_probe(np.asarray(found["probe"]), np.asarray(wanted["probe"])):
            different.append(f"another model ({found['model']}, or the same at another step)")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"--output={output} holds a damaged description of features; delete the folder") from error
    if different:
        raise UserError(f"--output={output} was made with {'; '.join(different)}; name another folder or delete it")


def _start(output: Path, described: dict[str, Any]) -> None:
    """Makes the folders; checks that what is there is an interrupted run of the same."""
    path = output / _PROGRESS / "settings.json"
    try:
        if output.exists() and not path.exists() and any(output.iterdir()):
            raise UserError(f"--output={output} holds other files; name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _check_same(_read_json(path), described, output)
        else:
            _write_json(path, described)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({reason(error)}); name another folder") from error


def _done(output: Path, number: int) -> dict[str, Any] | None:
    """What the progress file of a shard says; None if it is not done, or a file of it is gone or has another size."""
    path = output / _PROGRESS / f"{number:05d}.json"
    if not path.exists():
        return None
    written = _read_json(path)
    sizes = {name: (output / name).stat().st_size for name in written["files"] if (output / name).is_file()}
    return written if sizes == written["files"] else None


def _finish(output: Path, described: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    """Writes the description of the whole, and removes what only a run that goes on needs."""
    try:
        _write_json(output / MANIFEST, {**described, "shards": shards})
        for path in output.glob(f"{TEMPORARY}*"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--output={output} cannot be written ({reason(error)}); the same command goes on") from error
    shutil.rmtree(output / _PROGRESS, ignore_errors=True)


def _outcome(done: Mapping[int, Mapping[str, Any]], count: int) -> Outcome:
    rows = {
        table: sum(shard["rows"].get(table, 0) for shard in done.values())
        for table in ("images", "patches", "clusters")
    }
    return Outcome(
        **rows,
        left_out=sum(len(shard["left_out"]) for shard in done.values()),
        shards=len(done),
        missing=count - len(done),
        bytes=sum(sum(shard["files"].values()) for shard in done.values()),
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({reason(error)}); delete the folder") from error


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    temporary.write_text(json.dumps(content, ensure_ascii=True) + "\n")
    os.replace(temporary, path)
