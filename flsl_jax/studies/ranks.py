"""How well two orders of the same things agree."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats

# Up to this many things, all their orders are counted.
_MOST_COUNTED = 8


@dataclasses.dataclass(frozen=True)
class RankAgreement:
    """Of `n` things: Spearman's ρ and Kendall's τ-b, each from -1 (reversed) to 1 (the same order), equal values sharing
    their mean rank. `chance`: with which probability a random order of one side has this ρ or a larger one; None where
    there are too many orders to count."""

    n: int
    spearman: float
    kendall: float
    chance: float | None


def rank_agreement(first: Sequence[float], second: Sequence[float]) -> RankAgreement | None:
    """The agreement of two lists of values; None if a side has no order: fewer than two values, or all of them equal."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return RankAgreement(
        n=len(first),
        spearman=float(stats.spearmanr(first, second)[0]),
        kendall=float(stats.kendalltau(first, second)[0]),
        chance=_chance(first, second) if len(first) <= _MOST_COUNTED else None,
    )


def _chance(first: Sequence[float], second: Sequence[float]) -> float:
    """The share of all orders of `second` that agree with `first` as well as the given one, or better."""
    centred = [stats.rankdata(values) - (len(values) + 1) / 2 for values in (first, second)]
    orders = np.array(list(itertools.permutations(centred[1])))
    products = orders @ centred[0]
    return float(np.mean(products >= centred[0] @ centred[1] - 1e-9))
