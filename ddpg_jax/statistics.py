"""Statistics over seeds (Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice")."""

from __future__ import annotations

from typing import Any

import numpy as np


def iqm(values: Any) -> Any:
    """Interquartile mean over the last axis: what is left when the lowest and the highest quarter are cut off, averaged.

    NaN, a member that has diverged, is never cut off: what it is part of is NaN.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    values = np.sort(np.asarray(values, np.float64), axis=-1)
    cut = values.shape[-1] // 4
    middle = values[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return np.where(np.isnan(values).any(axis=-1), np.nan, middle)[()]


def interval(values: Any, resamples: int = 2_000) -> tuple[Any, Any]:
    """95 % bootstrap interval of the IQM over seeds: `[..., S]` -> two `[...]`. NaN for fewer than two seeds."""
    values = np.asarray(values, np.float64)
    seeds = values.shape[-1]
    if seeds < 2:
        nothing = np.full(values.shape[:-1], np.nan)
        return nothing, nothing
    drawn = np.random.default_rng(0).integers(seeds, size=(resamples, seeds))
    low, high = np.percentile(iqm(values[..., drawn]), [2.5, 97.5], axis=-1)
    return low, high
