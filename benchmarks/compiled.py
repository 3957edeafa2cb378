"""What a compiler made of a program, read from its optimised HLO: results, their padding, copies and collectives."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_BITS = {"pred": 8, "bf16": 16} | {f"{kind}{size}": size for kind in "sufc" for size in (4, 8, 16, 32, 64, 128)}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What has no memory of its own.
_WITHOUT_RESULT = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional"}

_OPERATION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEADING = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{\s*$")
_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[sufc]\d+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One array that an operation outside of all fusions writes.

    `padded` and `raw`: bytes with and without the padding of a TPU's tiles. `type`: such as "bf16[64,196,384]".
    `source`: what JAX recorded.
    """

    operation: str
    type: str
    padded: int
    raw: int
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
    """One exchange between devices: its kind, the types of its results and their bytes on one device."""

    kind: str
    types: tuple[str, ...]
    bytes: int
    source: str


def results(hlo: str) -> list[Result]:
    """What is written to memory, operation by operation; a loop's body counts once."""
    found = []
    for operation, arrays, rest in _operations(hlo, fused=False):
        if operation in _WITHOUT_RESULT:
            continue
        for array in arrays:
            found.append(
                Result(
                    operation=operation,
                    type=array.type,
                    padded=array.padded,
                    raw=array.raw,
                    source=_source(rest),
                )
            )
    return found


def copies(found: Sequence[Result], *, least: int = 2**20) -> list[Result]:
    """The results of at least so many bytes that another operation has written already, in another order."""
    return [x for x in found if x.operation in ("copy", "copy-start", "transpose") and x.padded >= least]


def collectives(hlo: str) -> list[Collective]:
    """The exchanges between devices, in their order; a loop's body counts once."""
    found = []
    channels = set()
    # A TPU's reduce-scatter is an all-reduce inside of a fusion, and what runs beside other work is written several times.
    for operation, arrays, rest in _operations(hlo, fused=True):
        kind, channel = operation.removesuffix("-start"), re.search(r"channel_id=(\d+)", rest)
        if kind not in _COLLECTIVES or (channel and channel.group(1) in channels):
            continue
        if channel:
            channels.add(channel.group(1))
        own = [array for array in arrays if array.type not in ("u32[]", "s32[]")]
        if operation != kind and kind != "all-reduce":
            # What starts an exchange gives its inputs too, before its results.
            own = own[len(own) // 2 :]
        types = tuple(array.type for array in own)
        found.append(Collective(kind=kind, types=types, bytes=sum(x.raw for x in own), source=_source(rest)))
    return found


def by_kind(found: Sequence[Collective]) -> dict[str, tuple[int, int]]:
    """Number and bytes of the collectives of each kind, most bytes first."""
    number, size = collections.Counter(), collections.Counter()
    for one in found:
        number[one.kind] += 1
        size[one.kind] += one.bytes
    return {kind: (number[kind], total) for kind, total in size.most_common()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    type: str
    raw: int
    padded: int


def _operations(hlo: str, *, fused: bool) -> Iterator[tuple[str, list[_Stored], str]]:
    """(operation, its arrays, the rest of its line); `fused`: also of computations that are parts of one operation."""
    inner = set(re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", hlo))
    name = ""
    for line in hlo.splitlines():
        heading = None if line.startswith(" ") else _HEADING.match(line)
        if heading:
            name = heading.group(1)
        match = _OPERATION.match(line)
        if match and (fused or name not in inner):
            yield match.group(3), [_stored(*array) for array in _ARRAY.findall(match.group(2))], match.group(4)


def _stored(dtype: str, shape: str, order: str, layout: str) -> _Stored:
    """An array with its padding: on a TPU the minor axes fill whole tiles, as `T(8,128)` in the layout says."""
    lengths = [int(x) for x in shape.split(",") if x]
    bits = 8 if dtype.startswith("f8") else _BITS[dtype]
    padded, tile = list(lengths), re.match(r"T\(([\d,]+)\)", layout)
    if tile and order:
        sizes = [int(x) for x in tile.group(1).split(",")]
        for axis, size in zip((int(x) for x in order.split(",")), reversed(sizes)):
            padded[axis] = -(-padded[axis] // size) * size
    return _Stored(type=f"{dtype}[{shape}]", raw=math.prod(lengths) * bits // 8, padded=math.prod(padded) * bits // 8)


def _source(rest: str) -> str:
    found = re.search(r'op_name="([^"]*)"', rest)
    return found.group(1) if found else ""
