"""Rank correlation by hand, with ties, and how likely chance is."""

import itertools

import numpy as np
import pytest
from scipy import stats

from flsl_jax.studies.ranks import rank_agreement

FIRST = [1.0, 2.0, 3.0, 4.0]


def test_the_same_and_the_reversed_order():
    same, reversed_ = rank_agreement(FIRST, [5.0, 6.0, 8.0, 9.0]), rank_agreement(FIRST, [9.0, 8.0, 6.0, 5.0])
    assert (same.n, same.spearman, same.kendall, same.chance) == pytest.approx((4, 1.0, 1.0, 1 / 24))
    assert (reversed_.spearman, reversed_.kendall, reversed_.chance) == pytest.approx((-1.0, -1.0, 1.0))


def test_equal_values_share_their_rank():
    # Ranks 1 2.5 4 2.5 against 1 2 3 4: by hand, Σ(products of centred ranks) = 1.5·1.5 + 0 + 1.5·0.5 + 0 = 3.
    agreement = rank_agreement([68.1, 72.1, 72.4, 72.1], [0.1, 0.2, 0.3, 0.4])
    assert agreement.spearman == pytest.approx(3 / np.sqrt(4.5 * 5))
    assert agreement.kendall == pytest.approx((4 - 1) / np.sqrt(5 * 6))  # 4 pairs agree, 1 does not, 1 is a tie


def test_chance_is_the_share_of_all_orders_that_agree_as_well():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, 5).astype(float).tolist(), rng.normal(size=5).tolist()
    ours = stats.spearmanr(first, second).statistic
    orders = [stats.spearmanr(first, order).statistic for order in itertools.permutations(second)]
    assert rank_agreement(first, second).chance == pytest.approx(np.mean(np.array(orders) >= ours - 1e-9))


def test_without_an_order_there_is_no_agreement():
    assert rank_agreement([1.0], [2.0]) is None
    assert rank_agreement([1.0, 1.0], [2.0, 3.0]) is None
    assert rank_agreement([], []) is None
    assert rank_agreement(3 * FIRST, 3 * FIRST).chance is None
