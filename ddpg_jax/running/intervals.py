"""Computes statistics over seeds.

They are those of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import chex
import numpy as np

RESAMPLES = 2_000


def iqm(values: Any) -> Any:
    """Computes the interquartile mean over the last axis: `[..., S]` -> `[...]`.

    It is the mean without the S // 4 lowest and the S // 4 highest values; with fewer than four values, the mean of all.
    NaN stands for a member that has diverged and is never cut off: the result is NaN, too.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    values = np.sort(_over_seeds(values), axis=-1)
    cut = values.shape[-1] // 4
    middle = values[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(values).any(axis=-1), np.nan, middle)[()]


def ranking_score(values: Any) -> Any:
    """Computes the IQM by which points are compared: `[..., S]` -> `[...]`, -inf for a point with a diverged member.

    >>> ranking_score([[1.0, 3.0], [9.0, np.nan]]).tolist()
    [2.0, -inf]
    """
    return np.nan_to_num(iqm(values), nan=-np.inf)


def interval(values: Any, resamples: int = RESAMPLES) -> tuple[Any, Any]:
    """Computes a 95 % bootstrap interval of the IQM over seeds (percentiles): `[..., S]` -> two `[...]`.

    It is NaN for fewer than two seeds. With few seeds it is too narrow, as all such intervals are. This is how often it
    contains the mean of a normal distribution:

    >>> def coverage(seeds):
    ...     low, high = interval(np.random.default_rng(7).normal(size=(2_000, seeds)), resamples=500)
    ...     return round(float(np.mean((low <= 0) & (high >= 0))), 2)
    >>> [coverage(seeds) for seeds in (2, 3, 5, 10, 20)]
    [0.48, 0.73, 0.89, 0.93, 0.94]
    """
    values = _over_seeds(values)
    if values.shape[-1] < 2:
        unknown = np.full(values.shape[:-1], np.nan)
        return unknown, unknown
    return _percentiles(_resample(np.random.default_rng(0), values, resamples))


def interval_over_points(points: Sequence[Any]) -> tuple[Any, Any]:
    """Computes a 95 % stratified bootstrap interval of the IQM over several points and their seeds.

    Seeds are resampled within each point, since the differences between points are not uncertainty. The interval is NaN if a
    point has fewer than two seeds.

    Args:
        points: arrays `[S]`, which may differ in length.

    >>> low, high = interval_over_points([[0.0, 1.0, 2.0], [100.0, 101.0, 102.0]])
    >>> bool(49.0 < low < 51.0 < high < 53.0)
    True
    """
    arrays = [_over_seeds(point) for point in points]
    chex.assert_rank(arrays, 1)
    if not arrays or min(map(len, arrays)) < 2:
        return np.nan, np.nan
    generator = np.random.default_rng(0)
    return _percentiles(np.concatenate([_resample(generator, values, RESAMPLES) for values in arrays], axis=-1))


def _over_seeds(values: Any) -> np.ndarray:
    """Converts values to an array `[..., S]` of float64."""
    values = np.asarray(values, np.float64)
    chex.assert_shape(values, (..., None))
    return values


def _resample(generator: np.random.Generator, values: np.ndarray, resamples: int) -> np.ndarray:
    """Draws seeds with replacement: `[..., S]` -> `[..., resamples, S]`."""
    seeds = values.shape[-1]
    return values[..., generator.integers(seeds, size=(resamples, seeds))]


def _percentiles(resampled: np.ndarray) -> tuple[Any, Any]:
    low, high = np.percentile(iqm(resampled), [2.5, 97.5], axis=-1)
    return low, high
