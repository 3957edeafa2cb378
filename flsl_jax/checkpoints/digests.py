"""Digests of arrays: sums over their elements, so that they do not depend on how an array is spread over devices.

An array is read as 32-bit words (an element of 64 bits is two, a smaller one is one). Word w at place i of the whole array, in
C order, is mixed with its place: h = mix(w xor i · 0x9E3779B9), and the digest is the sums of h and of h xor (h >> 13), each
modulo 2^32. `mix` is a bijection, so a change of one word always changes the first sum; any other change goes unnoticed with a
probability of about 2^-64. Sums of parts add up to that of the whole, whatever the parts are: a state that was written by P
processes is verified by P' others.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import future as ocp_future

_PLACE, _FIRST, _SECOND = 0x9E3779B9, 0x7FEB352D, 0x846CA68B
# Words that NumPy mixes at once, so that they stay in a core's cache.
_WORDS = 2**15
# Words of one call of the compiled loop, which needs a fifth of NumPy's time, in large calls; and words of one round of it.
_CALLS, _ROUND = (2**22, 2**18), 2**9

Sums = dict[str, tuple[int, int]]


def names_of(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, such as `student.backbone.norm.scale`."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def begin_sums(state: Any) -> Callable[[], Sums]:
    """Begins to compute the digests of a state. Its arrays may be donated afterwards.

    On accelerators they compute them, and every process has those of the whole arrays. A CPU's memory is read by the function
    that is returned, in whatever thread that is called, and gives the sums of the parts that this process holds.

    Args:
        state: pytree of arrays on any devices. All processes must call it.
    """
    arrays = names_of(state)
    if jax.default_backend() == "cpu":
        parts = {name: _own_parts(array) for name, array in arrays.items()}
        return lambda: {name: _add_up(found) for name, found in parts.items()}
    sums = _device_sums(list(arrays.values()))

    def read() -> Sums:
        if jax.process_index():
            return {}
        return {name: (int(pair[0]), int(pair[1])) for name, pair in zip(arrays, np.asarray(sums), strict=True)}

    return read


def host_sums(array: np.ndarray) -> tuple[int, int]:
    """The digest of a whole array in the host's memory."""
    return _add_up([(array, array.shape, tuple(slice(None) for _ in array.shape))])


def differing(state: Any, expected: Mapping[str, tuple[int, int]]) -> list[str]:
    """Names of the arrays whose digests are not the expected ones; as this process sees them.

    Args:
        state: pytree of arrays on any devices. All processes must call it.
        expected: digests by name.
    """
    sums = begin_sums(state)()
    names = list(names_of(state))
    if jax.process_count() > 1:
        own = np.array([sums.get(name, (0, 0)) for name in names], np.uint32)
        total = multihost_utils.process_allgather(own).sum(axis=0, dtype=np.uint32)
        sums = {name: (int(first), int(second)) for name, (first, second) in zip(names, total, strict=True)}
    return [name for name in names if sums[name] != expected.get(name)]


_Part = tuple[np.ndarray, tuple[int, ...], tuple[slice, ...]]


def _own_parts(array: jax.Array | np.ndarray) -> list[_Part]:
    """The parts that this process answers for, each with the shape of the whole and its place in it; without a copy."""
    if isinstance(array, np.ndarray):  # the same on every process
        return [] if jax.process_index() else [(array, array.shape, tuple(slice(None) for _ in array.shape))]
    return [
        (np.asarray(shard.data), array.shape, shard.index)
        for shard in array.addressable_shards
        if shard.replica_id == 0
    ]


def _add_up(parts: list[_Part]) -> tuple[int, int]:
    first = second = 0
    for values, shape, index in parts:
        more = _part_sums(values, shape=shape, index=index)
        first, second = (first + more[0]) % 2**32, (second + more[1]) % 2**32
    return first, second


def _part_sums(values: np.ndarray, *, shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[int, int]:
    words = _host_words(values)
    whole = (*shape, 2) if values.dtype.itemsize == 8 else shape
    begins = [part.indices(size)[0] for part, size in zip(index, shape, strict=True)] + [0] * (len(whole) - len(shape))
    # The part as rows that are contiguous in the whole: trailing axes that it holds completely, and one more.
    axis = len(whole)
    while axis and words.shape[axis - 1] == whole[axis - 1]:
        axis -= 1
    axis = max(axis - 1, 0)
    length = math.prod(words.shape[axis:])
    strides = [math.prod(whole[place + 1 :]) for place in range(len(whole))]
    starts = np.full((1,), sum(begin * stride for begin, stride in zip(begins, strides, strict=True)), np.uint64)
    for size, stride in zip(words.shape[:axis], strides[:axis], strict=True):
        starts = (starts[:, None] + np.arange(size, dtype=np.uint64) * np.uint64(stride)).reshape(-1)
    rows = words.reshape(len(starts), length)
    first = second = 0
    for call in _CALLS if jax.default_backend() == "cpu" else ():
        done = length // call * call
        more = _compiled_sums(rows[:, :done], starts, call=call)
        first, second = first + more[0], second + more[1]
        rows, length, starts = rows[:, done:], length - done, starts + np.uint64(done)
    height, width = max(1, _WORDS // max(length, 1)), min(length, _WORDS)
    steps = np.arange(width, dtype=np.uint32) * np.uint32(_PLACE)
    for top in range(0, len(starts), height):
        for left in range(0, length, _WORDS):
            block = rows[top : top + height, left : left + _WORDS]
            begin = ((starts[top : top + height] + np.uint64(left)) % np.uint64(2**32)).astype(np.uint32)
            mixed = block ^ ((begin * np.uint32(_PLACE))[:, None] + steps[: block.shape[1]])
            mixed *= np.uint32(_FIRST)
            mixed ^= mixed >> np.uint32(15)
            mixed *= np.uint32(_SECOND)
            first += int(mixed.sum(dtype=np.uint32))
            mixed ^= mixed >> np.uint32(13)
            second += int(mixed.sum(dtype=np.uint32))
    return first % 2**32, second % 2**32


def _compiled_sums(rows: np.ndarray, starts: np.ndarray, *, call: int) -> tuple[int, int]:
    if not rows.size:
        return 0, 0
    sums = jnp.zeros(2, jnp.uint32)
    for row, start in zip(rows, starts, strict=True):
        for left in range(0, len(row), call):
            sums = _add_call(row[left : left + call], np.uint32((int(start) + left) % 2**32), sums)
    return int(sums[0]), int(sums[1])


@jax.jit
def _add_call(words: jax.Array, begin: jax.Array, sums: jax.Array) -> jax.Array:
    """Adds the sums of whole rounds of words, of which the first has place `begin`; XLA makes one pass of each on a CPU."""

    def add_round(number: jax.Array, lanes: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left = number.astype(jnp.uint32) * _ROUND
        places = (lax.iota(jnp.uint32, _ROUND) + begin + left) * jnp.uint32(_PLACE)
        mixed = _mix(lax.dynamic_slice(words, (left,), (_ROUND,)) ^ places)
        return lanes[0] + mixed, lanes[1] + (mixed ^ (mixed >> 13))

    zeros = jnp.zeros(_ROUND, jnp.uint32)
    lanes = lax.fori_loop(0, len(words) // _ROUND, add_round, (zeros, zeros))
    return sums + jnp.stack([jnp.sum(lane, dtype=jnp.uint32) for lane in lanes])


def _mix(words: jax.Array) -> jax.Array:
    words = words * jnp.uint32(_FIRST)
    return (words ^ (words >> 15)) * jnp.uint32(_SECOND)


def _host_words(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values).reshape(values.shape)  # it makes a vector of a scalar
    if values.dtype.itemsize == 8:
        return values.reshape(*values.shape, 1).view(np.uint32)
    if values.dtype.itemsize == 4:
        return values.view(np.uint32)
    return values.view({1: np.uint8, 2: np.uint16}[values.dtype.itemsize]).astype(np.uint32)


def _device_sums(arrays: list[jax.Array]) -> jax.Array:
    """The digests of global arrays, uint32 [arrays, 2], whole on every process."""
    shardings = [getattr(array, "sharding", None) for array in arrays]
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    return _compiled(None if mesh is None else NamedSharding(mesh, PartitionSpec()))(arrays)


@functools.cache
def _compiled(output: NamedSharding | None) -> Callable[[list[jax.Array]], jax.Array]:
    return jax.jit(lambda arrays: jnp.stack([_array_sums(array) for array in arrays]), out_shardings=output)


def _array_sums(array: jax.Array) -> jax.Array:
    words = _device_words(array)
    places = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        places += lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride * _PLACE % 2**32)
        stride *= words.shape[axis]
    mixed = _mix(words ^ places)
    return jnp.stack([jnp.sum(mixed, dtype=jnp.uint32), jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)])


def _device_words(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    if array.dtype.itemsize >= 4:
        return lax.bitcast_convert_type(array, jnp.uint32)
    narrow = {1: jnp.uint8, 2: jnp.uint16}[array.dtype.itemsize]
    return lax.bitcast_convert_type(array, narrow).astype(jnp.uint32)


class DigestHandler(ocp.AsyncCheckpointHandler):
    """Writes digests when the thread that commits a checkpoint asks for them: a file for each process."""

    async def async_save(self, directory: Any, args: "DigestSave") -> list[ocp_future.Future]:
        """Begins to write; orbax waits for what is returned."""
        coroutine = self._write(Path(directory), args)
        return [ocp_future.CommitFutureAwaitingContractedSignals(coroutine, name="digests")]

    def save(self, directory: Any, args: "DigestSave") -> None:
        """Not used: checkpoints are written asynchronously."""
        raise NotImplementedError

    def restore(self, directory: Any, args: Any = None) -> None:
        """Not used: digests are read as files."""
        raise NotImplementedError

    async def _write(self, directory: Path, args: "DigestSave") -> None:
        process = jax.process_index()
        # The description is the first process's; that of another one differs, if only by its number.
        values = {"run": None if process else args.run, "arrays": args.arrays()}
        (directory / f"process_{process}.json").write_text(json.dumps(values))


@ocp.args.register_with_handler(DigestHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class DigestSave(ocp.args.CheckpointArgs):
    """What `DigestHandler` writes: the digest of the description, and a function that gives those of the arrays."""

    run: str
    arrays: Callable[[], Sums]
