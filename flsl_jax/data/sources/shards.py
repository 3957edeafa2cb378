"""Packed data sets: ArrayRecord shards with a manifest, their record format, and reading them."""

import dataclasses
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.records import Record, checked_index
from flsl_jax.errors import UserError, first_line

MANIFEST_NAME = "manifest.json"
FORMAT = "flsl_jax shards 1"
_LENGTH = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a packed data set: its name, number of records, size in bytes, and SHA-256 (hexadecimal)."""

    file: str
    count: int
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`: what a packed data set consists of.

    The file is written last, so it exists only if all shards do. `checksum` is the SHA-256 of the shards' checksums in
    order. `skipped` names the files that could not be decoded, each with the reason. `settings` are those that the data set
    was made with.
    """

    count: int
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    skipped: tuple[tuple[str, str], ...]
    settings: dict[str, Any]

    @property
    def checksum(self) -> str:
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def to_json(self) -> str:
        values = {"format": FORMAT, "checksum": self.checksum, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a packed data set.

    Raises:
        UserError: there is no manifest, or it is damaged or of another format.
    """
    path = folder / MANIFEST_NAME
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        if not folder.is_dir():
            missing = "is no folder" if folder.exists() else "is not there"
            raise UserError(f"{folder} {missing}; name the folder that python -m flsl_jax.prepare wrote") from error
        raise UserError(
            f"{path} is not there, so {folder} is no complete data set; make one, or finish it, with "
            f"python -m flsl_jax.prepare --input=IMAGES --output={folder}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the data set again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT!r}; prepare the data set again")
    try:
        manifest = Manifest(
            count=values["count"],
            class_names=tuple(values["class_names"]),
            shards=tuple(Shard(**shard) for shard in values["shards"]),
            skipped=tuple((name, reason) for name, reason in values["skipped"]),
            settings=values["settings"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); prepare the data set again") from error
    if manifest.checksum != values.get("checksum"):
        raise UserError(f"{path} does not match its own checksum; prepare the data set again")
    if manifest.count != sum(shard.count for shard in manifest.shards):
        raise UserError(
            f"{path} says {manifest.count} images, and another number by its shards; prepare the data set again"
        )
    return manifest


def verify(folder: Path) -> Manifest:
    """Reads every shard, compares it and its number of records with the manifest, and returns the manifest.

    Raises:
        UserError: a shard is missing or differs; names all such shards.
    """
    manifest = read_manifest(folder)
    wrong = [shard.file for shard in manifest.shards if _sha256_or_none(folder / shard.file) != shard.sha256]
    if wrong:
        raise UserError(
            f"{folder}: {len(wrong)} of {len(manifest.shards)} shards are missing or damaged: {', '.join(wrong)}; "
            f"delete them and {MANIFEST_NAME} and run python -m flsl_jax.prepare again"
        )
    ShardSource(folder)
    return manifest


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_or_none(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def encode_record(record: Record) -> bytes:
    """A record, whose image is encoded, as bytes: the length of the header, the header in JSON, the image."""
    header: dict[str, Any] = {"name": record.name}
    if record.label is not None:
        header["label"] = record.label
    if record.boxes is not None:
        header["xyxy"] = [[round(float(x), 3) for x in box] for box in record.boxes.xyxy]
        header["box_labels"] = [int(label) for label in record.boxes.labels]
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return _LENGTH.pack(len(encoded)) + encoded + bytes(record.image)


def decode_record(data: bytes) -> Record:
    """The inverse of `encode_record`; boxes are exact to 1/1000 pixel."""
    (length,) = _LENGTH.unpack_from(data)
    start = _LENGTH.size + length
    header = json.loads(data[_LENGTH.size : start])
    boxes = None
    if "xyxy" in header:
        boxes = Boxes(
            xyxy=np.array(header["xyxy"], np.float32).reshape(-1, 4), labels=np.array(header["box_labels"], np.int64)
        )
    return Record(image=data[start:], name=header["name"], label=header.get("label"), boxes=boxes)


class ShardSource:
    """The data set in a folder that `python -m flsl_jax.prepare` wrote.

    Args:
        folder: the folder with `manifest.json`.

    Raises:
        UserError: the manifest or a shard is missing, or a shard has another size or number of records than the manifest says,
            or its index of records, at its end, is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.name = os.fspath(folder)
        manifest = read_manifest(Path(folder))
        self.class_names, self.digest = manifest.class_names, manifest.checksum
        paths = [os.path.join(self.name, shard.file) for shard in manifest.shards]
        for path, shard in zip(paths, manifest.shards, strict=True):
            size = os.path.getsize(path) if os.path.isfile(path) else None
            if size != shard.size:
                found = "is not there" if size is None else f"has {size} bytes instead of {shard.size}"
                raise UserError(f"{path} {found}; copy the data set again or prepare it again")
        self._records = _open_records(paths, manifest.shards)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        """One image.

        Raises:
            DecodeError: the bytes of the shard around it are damaged.
        """
        index = checked_index(index, len(self))
        try:
            return decode_record(self._records[index])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
            raise DecodeError(
                f"record {index} of {self.name} is damaged ({' '.join(str(error).split())}); "
                f"python -m flsl_jax.prepare --output={self.name} --verify names the shard"
            ) from error


def _open_records(paths: list[str], shards: tuple[Shard, ...]) -> Any:
    """Random access to the records of all files; reads the index at the end of each.

    Raises:
        UserError: an index is damaged or of another number of records; names the file.
    """
    import grain

    advice = "copy it again, or delete it and the manifest and prepare the data set again"
    try:
        records: Any = grain.sources.ArrayRecordDataSource(paths)
        if len(records) == sum(shard.count for shard in shards):
            return records
    except RuntimeError:
        pass  # the file is found below
    for path, shard in zip(paths, shards, strict=True):
        try:
            single: Any = grain.sources.ArrayRecordDataSource([path])
            count = len(single)
        except RuntimeError as error:
            raise UserError(f"{path} is damaged at its end ({brief(error)}); {advice}") from error
        if count != shard.count:
            raise UserError(f"{path} has {count} records instead of {shard.count}; {advice}")
    raise UserError(f"{os.path.dirname(paths[0])} cannot be opened; prepare the data set again")


def brief(error: BaseException) -> str:
    """The first clause of an ArrayRecord reader's or writer's message."""
    return first_line(error).split(";")[0]
