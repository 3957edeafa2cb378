"""Exact weighted nearest neighbours: a bank of features over this process's devices, searched in blocks."""

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
from flsl_jax.evaluation.nearest import BANK_BLOCK, QUERY_BLOCK, search_blocks
from flsl_jax.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Bank:
    """Features that vote.

    `features` [c, m, D] in c blocks of m rows, split over the devices by blocks; `labels` int32 [c, m] alike, below 0
    where a row is padding. `size`: rows that are not. `num_classes`: labels are smaller.
    """

    features: Array
    labels: Array
    size: int
    num_classes: int


@dataclasses.dataclass(frozen=True)
class Votes:
    """Labels by falling votes: `each` [G, P, t] of every query, `group` [G, t] of the P queries of a group together."""

    each: Int[np.ndarray, "G P t"]
    group: Int[np.ndarray, "G t"]


def place_bank(
    parts: Sequence[np.ndarray],
    labels: Int[np.ndarray, " M"],
    *,
    num_classes: int,
    block: int = BANK_BLOCK,
    sharding: NamedSharding | None = None,
) -> Bank:
    """Puts l2-normalised features on the devices, each its own share of the rows; the host copies one share at a time.

    Args:
        parts: arrays [..., D] whose rows, one array after another, are the bank's; float32 or bfloat16, which is what they
            are compared in (sums are float32).
        labels: of the rows, from 0.
        num_classes: more than the largest label.
        block: rows compared at a time.
        sharding: of the leading axis over the devices to use; None: all of this process.
    """
    sharding = sharding or parallel.local_batch_sharding()
    devices = sharding.mesh.devices.reshape(-1)
    size = len(labels)
    block = min(block, -(-size // len(devices)))
    blocks = -(-size // (block * len(devices)))  # of each device
    share = blocks * block
    shards = []
    for number, device in enumerate(devices):
        rows = _rows(parts, number * share, (number + 1) * share)
        names = labels[number * share : (number + 1) * share].astype(np.int32)
        padding = share - len(names)
        rows = np.pad(rows, ((0, padding), (0, 0))).reshape(blocks, block, -1)
        names = np.pad(names, (0, padding), constant_values=-1).reshape(blocks, block)
        shards.append(jax.device_put((rows, names), device))
        jax.block_until_ready(shards[-1])
    features, names = (
        jax.make_array_from_single_device_arrays((blocks * len(devices), *own[0].shape[1:]), sharding, list(own))
        for own in zip(*shards, strict=True)
    )
    return Bank(features=features, labels=names, size=size, num_classes=num_classes)


def _rows(parts: Sequence[np.ndarray], start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the parts one after another; fewer at the end."""
    flat = [part.reshape(-1, part.shape[-1]) for part in parts]
    ends = list(itertools.accumulate(map(len, flat)))
    found = [
        part[max(start - end + len(part), 0) : max(stop - end + len(part), 0)]
        for part, end in zip(flat, ends, strict=True)
    ]
    return np.concatenate(found)


def vote(
    queries: Sequence[np.ndarray],
    bank: Bank,
    *,
    k: int,
    temp: float,
    top: int = 5,
    query_block: int = QUERY_BLOCK,
) -> Votes:
    """Exact weighted k-NN: each of the k nearest of the bank gives exp(cos / temp) to its label.

    The votes of a group are the sum of its queries' votes, of which each is scaled to sum to 1. Among equally near
    neighbours the first in the bank counts, among equal votes the lower label comes first.

    Args:
        queries: arrays [g, P, D] of l2-normalised features, one after another; P queries make a group.
        bank: what they are compared with, in its dtype.
        k: neighbours; all of the bank where it is smaller.
        temp: divides the cosine.
        top: labels that are returned, t; all classes where these are fewer.
        query_block: queries compared at a time.
    """
    length, points = sum(map(len, queries)), queries[0].shape[1]
    size = min(max(1, query_block // points), length)

    def block_votes(block: Float[np.ndarray, "g P D"]) -> tuple[Int[Array, "g P t"], Int[Array, "g t"]]:
        return _block_votes(
            block,
            bank.features,
            bank.labels,
            sharding=bank.features.sharding,
            k=min(k, bank.size),
            temp=temp,
            num_classes=bank.num_classes,
            top=min(top, bank.num_classes),
        )

    blocks = (
        [_rows(queries, start * points, (start + size) * points).reshape(-1, *queries[0].shape[1:])]
        for start in range(0, length, size)
    )
    found = map_stream(block_votes, blocks, batch_size=size)
    each, group = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Votes(each=each, group=group)


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
    """The best labels of each query and of each group. Every device searches its own blocks, then k of each are merged."""
    groups, points, width = queries.shape
    search = jax.shard_map(
        functools.partial(search_blocks, k=k),
        mesh=sharding.mesh,
        in_specs=(PartitionSpec(), sharding.spec, sharding.spec),
        out_specs=PartitionSpec(None, *sharding.spec),
        check_vma=False,
    )
    cosine, names = search(queries.reshape(-1, width).astype(bank.dtype), bank, labels)
    if cosine.shape[1] > k:
        cosine, places = jax.lax.top_k(cosine, k)
        names = jnp.take_along_axis(names, places, axis=1)
    # Relative to the nearest: the votes stay the same, and no temperature lets all of them vanish. Its place is known,
    # but a slice of it here would keep XLA from seeing a top-k above: on a CPU the whole search takes ten times longer.
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
