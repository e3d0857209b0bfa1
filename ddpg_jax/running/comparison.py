"""Compares runs by statistics over their seeds.

They are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".

A seed that has diverged is NaN. It counts as worse than any return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import numpy as np

RESAMPLES = 2_000


def probability_of_improvement(x: Any, y: Any) -> float:
    """Computes the probability that a seed of X has a higher return than one of Y: `[S]`, `[T]` -> a number.

    It is the mean over all pairs of 1 if x > y, 1/2 if x = y, and 0 otherwise (section 4.3): the Mann-Whitney U statistic over
    S * T.

    >>> probability_of_improvement([1.0, 3.0], [2.0, 3.0])
    0.375
    """
    x, y = _returns(x), _returns(y)
    return float(np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y)))


def optimality_gap(values: Any, target: float) -> float:
    """Computes by how much seeds fall short of a target return, in the mean: `[S]` -> a number.

    It is the target minus the mean of the returns, none of which counts for more than the target (section 4.3, where returns
    are normalized and the target is 1). It is infinite if a seed has diverged.

    >>> optimality_gap([50.0, 90.0, 120.0], target=100.0)
    20.0
    """
    return float(np.maximum(target - _returns(values), 0.0).mean())


def performance_profile(values: Any, returns: Any) -> np.ndarray:
    """Computes the fraction of seeds whose return exceeds each given one: `[S]`, `[R]` -> `[R]` (section 4.2).

    >>> performance_profile([1.0, 2.0, 4.0, 4.0], [0.0, 2.0, 3.0]).tolist()
    [1.0, 0.5, 0.5]
    """
    return (_returns(values)[:, None] > np.asarray(returns, np.float64)).mean(axis=0)


def resampled_interval(statistic: Callable[..., float], *samples: Any, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Computes a 95 % bootstrap interval (percentiles) of a statistic of samples `[S]`, each of which is resampled.

    It is NaN if a sample has fewer than two seeds.
    """
    arrays = [_returns(sample) for sample in samples]
    if min(map(len, arrays)) < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(0)
    found = [statistic(*[generator.choice(array, len(array)) for array in arrays]) for _ in range(resamples)]
    # Infinite values cannot be interpolated.
    return float(np.percentile(found, 2.5, method="lower")), float(np.percentile(found, 97.5, method="higher"))


def _returns(values: Any) -> np.ndarray:
    """Converts returns to an array `[S]`, with -inf for those that are not known."""
    array = np.asarray(values, np.float64)
    chex.assert_rank(array, 1)
    return np.nan_to_num(array, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
