"""Draws how the hyperparameters of a population changed: `schedule.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from ddpg_jax.app.figures import GREY, is_wide, save
from ddpg_jax.running.members import Change, ancestry

COLUMNS = 2
"""Panels beside each other."""


def draw_schedule(changes: Sequence[Change], final: Mapping[int, float], *, best: int, last: int, path: Path) -> None:
    """Draws the values of each field over the steps: thin lines for the members, coloured by their final returns.

    The thick line is the way to the last state of the best member, and a dot on it is where it passes to another member.

    Args:
        changes: of all members, with their beginnings.
        final: member -> last return; those of NaN have diverged and are grey.
        best: the best member.
        last: the last step.
        path: the file to write.
    """
    fields, stages = list(changes[0].values), ancestry(changes, best)
    known = [value for value in final.values() if np.isfinite(value)] or [0.0]
    norm, colors = Normalize(min(known), max(known)), matplotlib.colormaps["viridis"]
    columns = min(COLUMNS, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(1.0 + 4.2 * columns, 1.2 + 2.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for field, axes in zip(fields, panels, strict=False):
        for member in sorted(final, key=lambda member: np.nan_to_num(final[member], nan=-np.inf)):
            own = [(change.step, change.values[field]) for change in changes if change.member == member]
            color = colors(norm(final[member])) if np.isfinite(final[member]) else GREY
            _steps(axes, own, last, color=color, lw=1.2, alpha=0.9)
        _steps(axes, [(stage.step, stage.values[field]) for stage in stages], last, color="C3", lw=3.0)
        passed = [stage for stage in stages if stage.step]
        axes.plot([stage.step for stage in passed], [stage.values[field] for stage in passed], "o", color="C3", ms=5)
        if is_wide(np.array([change.values[field] for change in changes])):
            axes.set_yscale("log")
        axes.set_title(field, fontsize="medium")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in panels[len(fields) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(fields) - columns) : len(fields)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("environment steps of each member")
    figure.colorbar(ScalarMappable(norm, colors), ax=panels, label="final return of the member (grey: diverged)")
    figure.suptitle(f"{len(final)} members; thick line: the path to the best, member {best}")
    save(figure, path)


def _steps(axes: Any, points: Sequence[tuple[int, float]], last: int, **style: Any) -> None:
    """Draws values that hold from a step on, until the next one or the last."""
    steps, values = zip(*points, strict=True)
    axes.step([*steps, last], [*values, values[-1]], where="post", **style)
