"""Exact nearest neighbours by cosine: a bank of features over this process's devices, searched in blocks."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flsl_jax import parallel
from flsl_jax.evaluation.batches import map_stream
from flsl_jax.typing import Array, Float, Int

# Rows of queries and of the bank that are compared at a time: they bound memory and change no result.
QUERY_BLOCK, BANK_BLOCK = 1024, 16384


@dataclasses.dataclass(frozen=True)
class Votes:
    """Labels by falling votes: `each` [G, P, t] of every query, `group` [G, t] of the P queries of a group together."""

    each: Int[np.ndarray, "G P t"]
    group: Int[np.ndarray, "G t"]


@dataclasses.dataclass(frozen=True)
class Bank:
    """Features to search among, made by `Bank.place`.

    `features` [c, m, D]: c blocks of m rows, split over the devices of `sharding` by blocks. `names` int32 [c, m]: the
    label or the number of each row, -1 where a row only fills up a block. `size`: the number of rows that do not.
    """

    features: Array
    names: Array
    size: int
    sharding: NamedSharding

    @classmethod
    def place(
        cls,
        parts: Sequence[np.ndarray],
        labels: Int[np.ndarray, " M"] | None = None,
        *,
        block: int = BANK_BLOCK,
        sharding: NamedSharding | None = None,
    ) -> "Bank":
        """Puts features on the devices, each device its own share of the rows; the host copies one share at a time.

        Args:
            parts: arrays [..., D] of l2-normalised features, float32 or bfloat16. Their rows, one array after another, are
                the M rows of the bank. They are compared in this dtype; sums are float32.
            labels: of the rows, from 0; None: the rows are numbered from 0.
            block: rows compared at a time.
            sharding: of the leading axis over the devices to use; None: all devices of this process.
        """
        if labels is None:
            labels = np.arange(sum(part.size // part.shape[-1] for part in parts), dtype=np.int32)
        sharding = sharding or parallel.local_batch_sharding()
        size, devices = len(labels), sharding.num_devices
        block = min(block, -(-size // devices))
        blocks = -(-size // (block * devices)) * devices
        shards = []
        for device, (own,) in sharding.devices_indices_map((blocks,)).items():
            first, last, _ = own.indices(blocks)
            rows = _rows(parts, first * block, last * block)
            names = labels[first * block : last * block].astype(np.int32)
            padding = (last - first) * block - len(names)
            rows = np.pad(rows, ((0, padding), (0, 0))).reshape(last - first, block, -1)
            names = np.pad(names, (0, padding), constant_values=-1).reshape(last - first, block)
            shards.append(jax.device_put((rows, names), device))
            jax.block_until_ready(shards[-1])
        features, placed = (
            jax.make_array_from_single_device_arrays((blocks, *own[0].shape[1:]), sharding, list(own))
            for own in zip(*shards, strict=True)
        )
        return cls(features=features, names=placed, size=size, sharding=sharding)

    def nearest(
        self, queries: Float[np.ndarray, "Q D"], *, k: int, block: int = QUERY_BLOCK
    ) -> tuple[Float[Array, "Q n"], Int[Array, "Q n"]]:
        """Cosines and names of the k nearest rows for each query: the nearest first, of equals the first in the bank.

        Args:
            queries: l2-normalised.
            k: neighbours; n is the smaller of k and the bank's size.
            block: queries compared at a time.
        """
        block, k = min(block, len(queries)), min(k, self.size)
        found = []
        for start in range(0, len(queries), block):
            rows = np.minimum(np.arange(start, start + block), len(queries) - 1)
            found.append(_search(queries[rows], self.features, self.names, sharding=self.sharding, k=k))
        cosines, names = (jnp.concatenate(parts)[: len(queries)] for parts in zip(*found))
        return cosines, names

    def vote(
        self,
        queries: Sequence[np.ndarray],
        *,
        k: int,
        temp: float,
        num_classes: int,
        top: int = 5,
        block: int = QUERY_BLOCK,
    ) -> Votes:
        """Weighted k-NN: each of the k nearest rows gives exp(cos / temp) to its label.

        The votes of a group are the sum of its queries' votes, each query's scaled to sum to 1. Of equally near neighbours
        the first in the bank counts; of labels with equal votes the lower one comes first.

        Args:
            queries: arrays [g, P, D] of l2-normalised features, one after another; P queries make a group.
            k: neighbours; all rows of the bank where it has fewer.
            temp: divides the cosine.
            num_classes: more than the largest label of the bank.
            top: labels that are returned, t; all classes where there are fewer.
            block: queries compared at a time.
        """
        length, points = sum(map(len, queries)), queries[0].shape[1]
        size = min(max(1, block // points), length)

        def block_votes(own: Float[np.ndarray, "g P D"]) -> tuple[Int[Array, "g P t"], Int[Array, "g t"]]:
            return _block_votes(
                own,
                self.features,
                self.names,
                sharding=self.sharding,
                k=min(k, self.size),
                temp=temp,
                num_classes=num_classes,
                top=min(top, num_classes),
            )

        blocks = (
            [_rows(queries, start * points, (start + size) * points).reshape(-1, *queries[0].shape[1:])]
            for start in range(0, length, size)
        )
        found = map_stream(block_votes, blocks, batch_size=size)
        each, group = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return Votes(each=each, group=group)


def _rows(parts: Sequence[np.ndarray], start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the parts one after another; fewer at the end."""
    flat = [part.reshape(-1, part.shape[-1]) for part in parts]
    ends = list(itertools.accumulate(map(len, flat)))
    found = [
        part[max(start - end + len(part), 0) : max(stop - end + len(part), 0)]
        for part, end in zip(flat, ends, strict=True)
    ]
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("sharding", "k"))
def _search(
    queries: Float[Array, "q D"],
    bank: Float[Array, "c m D"],
    names: Int[Array, "c m"],
    *,
    sharding: NamedSharding,
    k: int,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Cosines and names of the k nearest rows. Every device searches its own blocks, then the k of each are merged."""
    search = jax.shard_map(
        functools.partial(_search_blocks, k=k),
        mesh=sharding.mesh,
        in_specs=(PartitionSpec(), sharding.spec, sharding.spec),
        out_specs=PartitionSpec(None, *sharding.spec),
        check_vma=False,
    )
    cosines, found = search(queries, bank, names)
    if cosines.shape[1] > k:
        cosines, places = jax.lax.top_k(cosines, k)
        found = jnp.take_along_axis(found, places, axis=1)
    return cosines, found


def _search_blocks(
    queries: Float[Array, "q D"], bank: Float[Array, "c m D"], names: Int[Array, "c m"], *, k: int
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The same among the blocks of one device: block after block, keeping the k best so far.

    Rows whose name is below 0 are never near. A k beyond the other rows is filled up with cosines of -inf.
    """

    def merge(best: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        features, block_names = block
        cosine = jnp.matmul(queries, features.T, precision="highest", preferred_element_type=jnp.float32)
        cosine = jnp.where(block_names >= 0, cosine, -jnp.inf)
        near, places = jax.lax.top_k(cosine, min(k, len(block_names)))
        scores = jnp.concatenate([best[0], near], axis=1)
        found = jnp.concatenate([best[1], block_names[places]], axis=1)
        top, places = jax.lax.top_k(scores, k)
        return (top, jnp.take_along_axis(found, places, axis=1)), None

    rows = queries.shape[0]
    start = (jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), -1, names.dtype))
    best, _ = jax.lax.scan(merge, start, (bank, names))
    return best


@functools.partial(jax.jit, static_argnames=("sharding", "k", "num_classes", "top"))
def _block_votes(
    queries: Float[Array, "g P D"],
    bank: Float[Array, "c m D"],
    labels: Int[Array, "c m"],
    *,
    sharding: NamedSharding,
    k: int,
    temp: float | Float[Array, ""],
    num_classes: int,
    top: int,
) -> tuple[Int[Array, "g P t"], Int[Array, "g t"]]:
    """The best labels of each query and of each group."""
    groups, points, width = queries.shape
    cosine, names = _search(queries.reshape(-1, width).astype(bank.dtype), bank, labels, sharding=sharding, k=k)
    # Relative to the nearest: the votes stay the same, and no temperature lets all of them vanish. Its place is known, but
    # a slice here would hide the top-k above from XLA, and the whole search on a CPU would take ten times as long.
    nearest = jnp.max(cosine, axis=1, keepdims=True)
    weights = jnp.where(names >= 0, jnp.exp((cosine - nearest) / temp), 0.0)

    def add(votes: Array, neighbour: tuple[Array, Array]) -> tuple[Array, None]:
        weight, name = neighbour
        return votes + jnp.where(name[:, None] == jnp.arange(num_classes), weight[:, None], 0.0), None

    # One neighbour after another: all at once would take the memory of queries × k × classes.
    votes, _ = jax.lax.scan(add, jnp.zeros((groups * points, num_classes)), (weights.T, names.T))
    shares = votes / jnp.sum(votes, axis=1, keepdims=True)
    _, each = jax.lax.top_k(votes, top)
    _, group = jax.lax.top_k(jnp.sum(shares.reshape(groups, points, -1), axis=1), top)
    return each.reshape(groups, points, top), group
