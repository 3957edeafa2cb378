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
    ranks = [stats.rankdata(values) for values in (first, second)]
    return RankAgreement(
        n=len(first),
        spearman=float(np.corrcoef(*ranks)[0, 1]),
        kendall=float(np.asarray(stats.kendalltau(first, second)[0])),
        chance=_chance(*ranks) if len(first) <= _MOST_COUNTED else None,
    )


def _chance(first: np.ndarray, second: np.ndarray) -> float:
    """The share of all orders of the second ranks that agree with the first as well as the given one, or better."""
    first, second = first - first.mean(), second - second.mean()
    orders = np.array(list(itertools.permutations(second)))
    return float(np.mean(orders @ first >= second @ first - 1e-9))
