"""Where the files in a tar file lie: names, offsets and sizes, read from its headers once."""

import dataclasses
import os
import tarfile
from typing import Any, NamedTuple

from flsl_jax.data.images.listing import open_file
from flsl_jax.errors import UserError, reason

# The first bytes of what tar files are packed with.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_BLOCK = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """A file in a tar file: its name, and where in it and how many its bytes are."""

    name: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """The files in a tar file, in order. `damage`: why the rest of it cannot be read, and after what; empty if all can be."""

    members: tuple[Member, ...]
    damage: str = ""


def index_of(path: str | os.PathLike[str]) -> TarIndex:
    """Reads all headers of a tar file; contents are passed over.

    Raises:
        UserError: the file cannot be read, is compressed, or is no tar file.
    """
    try:
        with open_file(path) as file:
            return _index(file, path=os.fspath(path), length=os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{os.fspath(path)} cannot be read ({reason(error)}); name a tar file") from error


def _index(file: Any, *, path: str, length: int) -> TarIndex:
    head = file.read(8)
    file.seek(0)
    packed = next((how for magic, how in _PACKED.items() if head.startswith(magic)), None)
    if packed is not None:
        raise UserError(
            f"{path} is packed with {packed}, so that an image in it can be reached only through all before it; unpack it to a "
            "plain .tar (images hardly get smaller by it), or its files to a folder"
        )
    members, damage = [], ""
    try:
        archive: Any = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    except tarfile.TarError as error:
        raise UserError(f"{path} is no tar file ({reason(error)}); name one, or a folder of them") from error
    try:
        while (item := archive.next()) is not None:
            archive.members.clear()  # else every header stays in memory
            if not item.isreg() or item.issparse():
                continue
            if item.offset_data + item.size > length:
                return TarIndex(tuple(members), _after(members, f"{item.name} is cut off"))
            members.append(Member(name=_clean(item.name), offset=item.offset_data, size=item.size))
        # The reader ends quietly at a damaged header; a whole file ends with zeros or at its last byte.
        file.seek(archive.offset)
        end = file.read(_BLOCK)
        if end.strip(b"\0") or archive.offset > length:
            damage = _after(members, f"what follows at byte {archive.offset:,} is no tar header")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        damage = _after(members, reason(error))
    return TarIndex(tuple(members), damage)


def _after(members: list[Member], why: str) -> str:
    return f"{why}, after {len(members):,} files" + (f", the last of them {members[-1].name}" if members else "")


def _clean(name: str) -> str:
    """The name without `./` before it and doubled slashes."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
