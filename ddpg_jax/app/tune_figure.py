"""Draws what a study has found: the points in their order, and how much each field matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ddpg_jax.app.figures import is_wide, save
from ddpg_jax.app.study import Finished


def tune_figure(finished: Sequence[Finished], importances: Mapping[str, float], title: str, *, path: Path) -> None:
    """Draws the return of each point with the best so far, the importances, and the return over each field.

    Points that have diverged are crosses at the bottom.

    Args:
        finished: the points.
        importances: of the fields; may be empty.
        title: the title of the figure.
        path: the file to write.
    """
    fields = list(finished[0].point)
    values = np.array([one.value for one in finished])
    figure = Figure(figsize=(max(8.0, 3.2 * len(fields)), 7.0), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    history, shares = above.subplots(1, 2, width_ratios=(2, 1))
    order = np.arange(1, len(values) + 1)
    history.plot(order, values, "o", ms=4, color="0.6", label="a point")
    history.step(order, np.fmax.accumulate(values), where="post", lw=2, label="the best so far")
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    diverged = ~np.isfinite(values)
    _crosses(history, order[diverged])
    history.set(xlabel="points finished", ylabel="IQM of the final return")
    history.legend(edgecolor="none")
    ranked = sorted(importances, key=lambda name: importances[name])
    shares.barh(ranked, [importances[name] for name in ranked])
    shares.set_xlabel("importance (PED-ANOVA)")
    if not ranked:
        shares.text(0.5, 0.5, "too few points", ha="center", va="center", transform=shares.transAxes)
        shares.set(xticks=[], yticks=[])
    for axes, name in zip(below.subplots(1, len(fields), sharey=True, squeeze=False)[0], fields, strict=True):
        tried = np.array([one.point[name] for one in finished], float)
        axes.scatter(tried, values, c=np.arange(len(values)), s=16, cmap="viridis")
        _crosses(axes, tried[diverged])
        axes.set_xlabel(name)
        if all(isinstance(one.point[name], int) for one in finished):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if is_wide(tried):
            axes.set_xscale("log")
            within = (1,) if tried.max() / tried.min() > 300 else (1, 3)
            axes.xaxis.set_major_locator(LogLocator(subs=within))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
    below.axes[0].set_ylabel("IQM of the final return")
    save(figure, path)


def _crosses(axes: Any, at: np.ndarray) -> None:
    """Marks where points have diverged, at the lower edge."""
    if len(at):
        where = axes.get_xaxis_transform()
        axes.plot(at, np.zeros(len(at)), "x", color="C3", transform=where, clip_on=False, label="diverged")
