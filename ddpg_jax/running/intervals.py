"""Statistics over seeds (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def iqm(values: Any) -> Any:
    """Interquartile mean over the last axis: what is left when the S // 4 lowest and the S // 4 highest are cut off, averaged.

    Of fewer than four it is the mean. NaN, a member that has diverged, is never cut off: what it is part of is NaN.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    values = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = values.shape[-1] // 4
    middle = values[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(values).any(axis=-1), np.nan, middle)[()]


def standing(values: Any) -> Any:
    """The IQM by which points are compared: that of one with a diverged member is below all others.

    >>> standing([[1.0, 3.0], [9.0, np.nan]]).tolist()
    [2.0, -inf]
    """
    return np.nan_to_num(iqm(values), nan=-np.inf)


RESAMPLES = 2_000


def interval(values: Any, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """95 % bootstrap interval of the IQM over seeds (percentiles): `[..., S]` -> two `[...]`. NaN for fewer than two seeds.

    With few seeds it is too narrow, as all such intervals are. How often it holds the middle of a normal distribution:

    >>> def held(seeds):
    ...     low, high = interval(np.random.default_rng(7).normal(size=(2_000, seeds)), resamples=500)
    ...     return round(float(np.mean((low <= 0) & (high >= 0))), 2)
    >>> [held(seeds) for seeds in (2, 3, 5, 10, 20)]
    [0.48, 0.73, 0.89, 0.93, 0.94]
    """
    values = np.asarray(values, np.float64)
    if values.shape[-1] < 2:
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing
    return _between(_redrawn(np.random.default_rng(0), values, resamples))


def interval_over_points(points: Sequence[Any]) -> tuple[Any, Any]:
    """95 % stratified bootstrap interval of the IQM over several points and their seeds, arrays `[S]` of any lengths.

    Seeds are drawn anew within each point: how far points are from each other is no uncertainty. NaN where one has fewer than
    two seeds.

    >>> low, high = interval_over_points([[0.0, 1.0, 2.0], [100.0, 101.0, 102.0]])
    >>> bool(49.0 < low < 51.0 < high < 53.0)
    True
    """
    if not points or min(map(len, points)) < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(0)
    return _between(
        np.concatenate([_redrawn(generator, np.asarray(point, np.float64), RESAMPLES) for point in points], axis=-1)
    )


def _redrawn(generator: np.random.Generator, values: np.ndarray, resamples: int) -> np.ndarray:
    """`[..., S]` -> `[..., resamples, S]`"""
    seeds = values.shape[-1]
    return values[..., generator.integers(seeds, size=(resamples, seeds))]


def _between(resampled: np.ndarray) -> tuple[Any, Any]:
    low, high = np.percentile(iqm(resampled), [2.5, 97.5], axis=-1)
    return low, high
