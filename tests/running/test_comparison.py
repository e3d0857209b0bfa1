"""Statistics that compare runs, against slow ones that follow the formulas of Agarwal et al. 2021 word for word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddpg_jax.running.comparison import optimality_gap, performance_profile, probability_of_improvement, resampled_interval

RETURNS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(RETURNS, RETURNS)
def test_the_probability_of_improvement_counts_pairs(x: list[float], y: list[float]) -> None:
    total = 0.0
    for a in x:
        for b in y:
            total += 1.0 if a > b else 0.5 if a == b else 0.0
    value = probability_of_improvement(x, y)
    assert value == pytest.approx(total / (len(x) * len(y)))
    test: Any = stats.mannwhitneyu(x, y)
    assert value == pytest.approx(test.statistic / (len(x) * len(y)))
    assert value + probability_of_improvement(y, x) == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(RETURNS, st.integers(-6, 6).map(float))
def test_the_optimality_gap_is_what_is_missing_to_the_target(x: list[float], target: float) -> None:
    missing = [target - min(a, target) for a in x]
    assert optimality_gap(x, target) == pytest.approx(sum(missing) / len(missing))


@settings(max_examples=60, deadline=None)
@given(RETURNS, RETURNS)
def test_the_profile_counts_seeds_above(x: list[float], at: list[float]) -> None:
    np.testing.assert_allclose(performance_profile(x, at), [sum(a > r for a in x) / len(x) for r in at])


def test_a_diverged_seed_is_worse_than_any() -> None:
    assert probability_of_improvement([-1e9], [math.nan]) == 1.0
    assert probability_of_improvement([math.nan], [math.nan]) == 0.5
    assert optimality_gap([1.0, math.nan], 2.0) == math.inf
    assert performance_profile([1.0, math.nan], [-1e9]).tolist() == [0.5]


def test_the_interval_is_that_of_the_bootstrap() -> None:
    """Of a mean of normal numbers it is about the textbook's; seeds of both samples are drawn anew."""
    x = np.random.default_rng(0).normal(size=400)
    low, high = resampled_interval(lambda own: float(own.mean()), x)
    assert (low + high) / 2 == pytest.approx(x.mean(), abs=0.02)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.15)
    assert resampled_interval(probability_of_improvement, [1.0, 2.0], [0.0, 0.5]) == (1.0, 1.0)
    low, high = resampled_interval(probability_of_improvement, [0.0, 2.0], [1.0, 1.0])
    assert (low, high) == (0.0, 1.0)
    assert np.isnan(resampled_interval(probability_of_improvement, [1.0], [0.0, 0.5])).all()
